"""The gate over replicas, whose shards know the same rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from incr_core.registry import RunDirectory
from incr_core.runs import change
from tests.support.cluster_runs import run
from tests.support.poisoned import BY_DAY, flipped, job, stream, timed

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


@pytest.mark.chaos
def test_replicas_leave_what_is_set_aside_out_of_their_rates(tmp_path: Path) -> None:
    days = timed(stream(flipped, 21, 23))
    settings = ["publish.on_hold=rollback", *BY_DAY]
    found = run(job(tmp_path / "days", days, *settings), tmp_path / "run")
    assert RunDirectory.open(tmp_path / "run").table("events")["kind"].to_pylist() == ["held", "set aside"]
    assert found == run(job(tmp_path / "twin days", days[:20] + days[21:], *settings), tmp_path / "twin")
