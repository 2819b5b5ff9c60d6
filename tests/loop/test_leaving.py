"""Who is about to leave takes with it what is not committed: so it is committed before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.runs import run


@pytest.mark.slow
def test_a_notice_commits_after_the_increment_at_hand_and_changes_no_bits(
    small_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = small_job("publish.every=4")
    undisturbed = run(job, tmp_path / "undisturbed").summary
    told = iter(["", "the node of replica 0 is being drained"])
    monkeypatch.setattr(LocalEngine, "leaving", lambda engine: next(told, ""))
    found = run(job, tmp_path / "run").summary
    assert found.model_sha256 == undisturbed.model_sha256
    assert found.events == {"node leaving": 1}
    directory = RunDirectory.open(tmp_path / "run")
    assert [version["increment"] for version in directory.versions()] == [1, 3, 4]
    [event] = directory.table("events").to_pylist()
    assert (event["increment"], event["action"]) == (1, "committed at once")
