"""Streams that go on while they are learned: a function that waits for rows, a folder to which files come."""

from __future__ import annotations

import inspect
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core._util import Stopped, _prefetch, set_by_signals, waiting
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import count
from incr_core.runs import run
from tests.support.streams import flights, untimed

FEED = """
import itertools, threading
import numpy as np

PARTS = 3
more = threading.Event()  # set when there is more than the first parts

def rows():
    for number in itertools.count():
        if number >= PARTS:
            more.wait(600)
        if number == 2 * PARTS:
            return
        x = np.random.default_rng(number).normal(size=40)
        yield {"x": x, "y": (x > 0).astype(int), "kind": np.where(x > 0, "b", "a")}

def endless():
    for number in itertools.count():
        if number > 100:
            raise AssertionError("nobody should read on")
        yield {"x": [0.0, 1.0], "y": [0, 0], "kind": ["a", "b"]}
"""


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Makes jobs on functions of the module `live_feed`."""
    (tmp_path / "live_feed.py").write_text(FEED)

    def make(function: str, label: str = "y", **features: Any) -> Job:
        document = {
            "name": "live",
            "root": str(tmp_path),
            "stream": {"path": f"live_feed:{function}"},
            "features": {"label": label, "numeric": ["x"], **features},
            "model": {"hidden": [4]},
            "learner": {"objective": "binary", "batch_size": 10},
        }
        return Job.from_document(document)

    yield make
    sys.modules.pop("live_feed", None)


@pytest.mark.parametrize("every", ["file", 25])
def test_rows_without_times_are_given_out_before_the_next_part_is_there(every: str | int) -> None:
    received = threading.Event()
    table = flights(100)

    def parts() -> Iterator[pa.Table]:
        yield table.slice(0, 50)
        assert received.wait(600), "the rows that are there wait for those that are not"
        yield table.slice(50)

    increments = untimed(parts, every=every).increments()
    first = list(itertools.islice(increments, 1 if every == "file" else 2))
    received.set()
    assert sum(len(step.labelled) for step in (*first, *increments)) == 100


def test_a_signal_in_the_last_moment_of_waiting_leaves_nobody_waiting() -> None:
    lines, first = inspect.getsourcelines(waiting.__wrapped__)  # type: ignore[attr-defined]
    last = first + max(place for place, line in enumerate(lines) if "_waiting = False" in line)

    def just_before(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and frame.f_lineno == last:
            signal.raise_signal(signal.SIGTERM)
        return just_before

    with pytest.raises(Stopped), set_by_signals(threading.Event()), waiting():
        sys.settrace(just_before)
    sys.settrace(None)
    with set_by_signals(stop := threading.Event()):
        signal.raise_signal(signal.SIGTERM)  # raises nothing
    assert stop.is_set()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_waits_for_rows_is_stopped_by_a_signal_and_goes_on(
    feed: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(_prefetch, "PATIENCE", 0.01)
    job = feed("rows", classes=[0, 1])
    learned = itertools.count(1)

    def on_progress(name: str, progress: Any) -> None:
        if next(learned) == 3:  # the source has no more: in a moment the run will wait
            threading.Timer(0.2, os.kill, (os.getpid(), number)).start()

    stopped = run(job, tmp_path / "run", on_progress=on_progress).summary
    assert (stopped.finished, stopped.rows_learned, stopped.version) == (False, 120, 3)
    sys.modules["live_feed"].more.set()
    whole = run(job, tmp_path / "whole").summary
    assert (whole.finished, whole.rows_learned) == (True, 240)
    assert run(job, tmp_path / "run").summary.model_sha256 == whole.model_sha256


def test_no_more_is_read_of_a_function_than_tells_two_classes(feed: Callable[..., Job]) -> None:
    assert feed("endless").resolved().features.classes == [0, 1]
    assert feed("endless", "kind").resolved().features.classes == ["a", "b"]


@pytest.mark.parametrize(
    ("objective", "remedy"), [("multiclass", "set features.capacity"), ("multilabel", "name them$")]
)
def test_classes_of_a_function_that_may_never_end_must_be_named(
    feed: Callable[..., Job], objective: str, remedy: str
) -> None:
    job = feed("endless", "kind").with_settings([f"learner.objective={objective}"])
    with pytest.raises(
        JobError, match=rf"features.classes: expected .* \(live_feed:endless\), .* got none; .*{remedy}"
    ):
        job.resolved()


EVERY = {"in files": {}, "in rows": {"every": 30}, "by time": {"every": "12h", "predict_at": "at", "label_at": "known"}}


@pytest.mark.slow
@pytest.mark.parametrize("section", EVERY.values(), ids=EVERY)
def test_files_that_come_while_a_run_is_on_are_learned_as_by_a_run_started_when_it_ended(
    tmp_path: Path, section: dict[str, Any]
) -> None:
    table = flights(200, hours=40)
    files = {f"day-{number}.parquet": table.slice(50 * number, 50) for number in range(4)}

    def job(folder: Path) -> Job:
        document = {
            "name": "growing",
            "stream": {"path": str(folder), **section},
            "features": {"label": "late", "numeric": ["x"], "categorical": ["carrier"], "classes": [0, 1]},
            "model": {"hidden": [4]},
            "learner": {"objective": "binary", "batch_size": 10},
            "strategy": [{"name": "replay", "capacity": 20}],
            "publish": {"every": 2},
        }
        return Job.from_document(document)

    def put(folder: Path, *names: str) -> None:
        folder.mkdir(exist_ok=True)
        for name in names:
            if not (folder / name).exists():
                pq.write_table(files[name], folder / name)

    first, second, third, fourth = files
    put(tmp_path / "data", first, second)

    def on_progress(name: str, progress: Any) -> None:
        put(tmp_path / "data", third)
        if progress.rows > 100:  # of the third file
            put(tmp_path / "data", fourth)

    during = run(job(tmp_path / "data"), tmp_path / "during", on_progress=on_progress).summary
    for names in ([first, second], [third], [fourth]):
        put(tmp_path / "again", *names)
        between = run(job(tmp_path / "again"), tmp_path / "between").summary
    assert during.rows_learned == count(RunDirectory.open(tmp_path / "during").table("ledger")) == 200
    assert (during.model_sha256, during.version) == (between.model_sha256, between.version)


def test_files_taken_away_while_a_run_is_on_do_not_keep_it_going(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": np.arange(40.0), "y": np.arange(40) % 2}), tmp_path / "a.parquet")
    document = {
        "name": "short",
        "stream": {"path": str(tmp_path)},
        "features": {"label": "y", "numeric": ["x"], "classes": [0, 1]},
        "model": {"hidden": []},
        "learner": {"objective": "binary"},
    }
    summary = run(
        Job.from_document(document), tmp_path / "_run", on_progress=lambda *_: (tmp_path / "a.parquet").unlink()
    ).summary
    assert (summary.finished, summary.increments, summary.version) == (True, 1, 1)
