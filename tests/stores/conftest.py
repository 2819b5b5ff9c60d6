"""One server for all tests of runs and streams that live in a store: of S3, and where they are installed, of others."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.support.store_servers import SERVERS

STORES = ["s3", *(pytest.param(scheme, marks=pytest.mark.chaos) for scheme in ("gs", "abfs"))]


@pytest.fixture(scope="package", params=STORES)
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    with SERVERS[request.param]() as address:
        yield address


@pytest.fixture
def place(bucket: str) -> str:
    """An address at which nothing is."""
    return f"{bucket}/{uuid4().hex[:8]}"
