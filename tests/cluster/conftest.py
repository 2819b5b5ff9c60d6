"""Two processes for all tests of the shards of a replica."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.shards import TwoShards


@pytest.fixture(scope="session")
def two_shards() -> Iterator[TwoShards]:
    with TwoShards() as two:
        yield two
