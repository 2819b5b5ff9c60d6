"""The gate over replicas, whose shards know the same rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from incr_core.registry import RunDirectory
from tests.support.cluster_runs import run
from tests.support.poisoned import flipped, job, stream

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_two_replicas_hold_back_what_one_process_does(tmp_path: Path) -> None:
    run(job(tmp_path / "days", stream(flipped, 21, 21)), tmp_path / "run")
    directory = RunDirectory.open(tmp_path / "run")
    assert [version["version"] for version in directory.versions() if not version["gate"]["promoted"]] == [21]
    assert directory.champion() == 20
