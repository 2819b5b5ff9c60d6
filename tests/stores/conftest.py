"""One server of S3 for all tests of runs and streams that live in a store."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.support.s3_server import s3_server


@pytest.fixture(scope="package")
def bucket() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def place(bucket: str) -> str:
    """An address at which nothing is."""
    return f"{bucket}/{uuid4().hex[:8]}"
