"""The gate over replicas, whose shards know the same rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from incr_core.registry import RunDirectory
from incr_core.runs import change
from tests.support.cluster_runs import run
from tests.support.poisoned import flipped, job, stream

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_two_replicas_hold_back_what_one_process_does(tmp_path: Path) -> None:
    run(job(tmp_path / "days", stream(flipped, 21, 21)), tmp_path / "run")
    directory = RunDirectory.open(tmp_path / "run")
    assert [version["version"] for version in directory.versions() if not version["gate"]["promoted"]] == [21]
    assert directory.champion() == 20


@pytest.mark.chaos
def test_replicas_go_back_with_the_loop(tmp_path: Path) -> None:
    days = job(tmp_path / "days", stream(flipped, 0, 5), "publish.states=4")
    whole = run(days, tmp_path / "run")
    change(tmp_path / "run", "rollback", 2)
    assert run(days, tmp_path / "run") == whole
    assert RunDirectory.open(tmp_path / "run").latest() == 9
