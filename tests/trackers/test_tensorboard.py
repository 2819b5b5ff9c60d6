"""`[track] tensorboard`: what the event files say is what was committed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from incr_core.job import Job
from incr_core.registry import CHANGE, ask
from incr_core.runs import Run, run
from tests.support.processes import wait_until
from tests.support.trackers import after

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def job(table: Path, *settings: str) -> Job:
    document = {
        "stream": {"path": str(table), "every": 250},
        "features": {"label": "tall", "numeric": ["height", "weight"], "classes": [0, 1]},
        "model": {"hidden": [4]},
        "learner": {"objective": "binary"},
        "publish": {"every": 3},
        "track": {"tensorboard": True},
    }
    return Job.from_document(document, settings)


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What an event file says, by tag."""
    if not (folder / "tensorboard").exists():
        return {}
    found = accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def assert_told(folder: Path) -> None:
    """Every number of the metrics is there, once, at its increment."""
    told, rows = events(folder), Run(folder).table("metrics").to_pylist()
    for name in ("metric.auc", "total.auc", "loss.loss", "rows_labelled", "seconds_learning", "version"):
        expected = [
            (row["increment"], row[name]) for row in rows if row[name] is not None and not math.isnan(row[name])
        ]
        found = told[name.replace(".", "/")]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected])


def test_the_event_files_hold_the_metrics_of_every_increment(table: Path, tmp_path: Path) -> None:
    run(job(table), tmp_path / "run")
    assert_told(tmp_path / "run")
    assert len(events(tmp_path / "run")["loss/loss"]) == 8


def test_a_resumed_run_tells_every_increment_once(table: Path, tmp_path: Path) -> None:
    def dies() -> None:
        raise RuntimeError("killed between two commits")

    with pytest.raises(RuntimeError, match="killed"):
        run(job(table), tmp_path / "run", on_progress=after(5, dies))
    assert [step for step, _ in events(tmp_path / "run")["loss/loss"]] == [0, 1, 2]  # of the only commit
    run(job(table), tmp_path / "run")
    assert_told(tmp_path / "run")


def test_the_files_are_written_while_the_run_goes_on(table: Path, tmp_path: Path) -> None:
    def waits() -> None:
        wait_until(lambda: "loss/loss" in events(tmp_path / "run"))

    run(job(table), tmp_path / "run", on_progress=after(5, waits))
    assert_told(tmp_path / "run")


def test_after_a_rollback_the_increments_are_there_as_they_were_learned_again(table: Path, tmp_path: Path) -> None:
    def goes_back() -> None:
        wait_until(lambda: len(events(tmp_path / "run").get("loss/loss", [])) == 6)  # what is undone is there
        ask(tmp_path / "run", CHANGE, action="rollback", version=1, token="t")

    run(job(table), tmp_path / "run", on_progress=after(7, goes_back))
    assert Run(tmp_path / "run").versions[2].rows == 0  # the commit that restores the first version
    assert_told(tmp_path / "run")


def test_a_job_that_asks_for_none_gets_none(table: Path, tmp_path: Path) -> None:
    run(job(table, "track.tensorboard=false"), tmp_path / "run")
    assert not (tmp_path / "run/tensorboard").exists()
