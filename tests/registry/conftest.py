"""Fixtures that several tests of the core share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from incr_core.registry import RunDirectory
from tests.support.versions import commit, start


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    """A run of three versions, open for writing."""
    with start(tmp_path / "run") as run:
        for _ in range(3):
            commit(run)
        yield run
