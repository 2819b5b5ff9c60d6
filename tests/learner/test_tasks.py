"""Tasks named in a job: heads and experts that are told them, and strategies that consolidate where one ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.engines import LocalEngine
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.registry import RunDirectory
from incr_core.runs import Version, run
from incr_core.strategies import PackNet

TASKS, ROWS = 3, 400


def table(categorical: bool = False) -> pa.Table:
    """Three tasks one after another, each with another line between the classes: no one head can do them all."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(TASKS * ROWS, 2))
    task = np.repeat(np.arange(TASKS), ROWS)
    angle = task * 2 * np.pi / 3
    label = x[:, 0] * np.cos(angle) + x[:, 1] * np.sin(angle) > 0
    columns = {"x": x[:, 0], "z": x[:, 1], "task": task, "label": label.astype(np.int64)}
    return pa.table(columns | ({"colour": np.where(x[:, 0] > 0, "red", "blue")} if categorical else {}))


def job(path: Path, *settings: str, categorical: bool = False, **sections: Any) -> Job:
    features = {"label": "label", "numeric": ["x", "z"], "task": "task", "classes": [0, 1]}
    document: dict[str, Any] = {
        "name": "tasks",
        "stream": {"path": str(path), "every": 80},
        "features": features | ({"categorical": ["colour"]} if categorical else {}),
        "model": {"hidden": [16]},
        "learner": {"objective": "binary", "batch_size": 16, "epochs": 3, "optimizer": {"name": "adam", "lr": 0.02}},
        "publish": {"every": 2},
    }
    return Job.from_document(document | sections, settings)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    pq.write_table(table(categorical=True), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


HEADS = 'model.adapt=[{name="task_heads", tasks=3}]'
EXPERTS = 'model.adapt=[{name="experts", tasks=3}]'


@pytest.mark.slow
@pytest.mark.parametrize("categorical", [False, True])
@pytest.mark.parametrize("settings", [(HEADS, 'strategy=[{name="isolate"}]', "model.hidden=[]"), (EXPERTS,)])
def test_a_model_with_room_for_tasks_is_told_them(
    path: Path, tmp_path: Path, settings: tuple[str, ...], categorical: bool
) -> None:
    run(job(path, *settings, categorical=categorical), tmp_path / "told")
    found, bad = Version.load(tmp_path / "told").answer(path)
    assert not bad
    right = (np.asarray(found["probability"]) > 0.5) == np.asarray(table()["label"], dtype=bool)
    first = right[:ROWS].mean()
    assert first > 0.8, "what was learned first is still there"
    plain = run(job(path, categorical=categorical), tmp_path / "plain").summary
    assert plain.rows_learned == TASKS * ROWS
    found, _ = Version.load(tmp_path / "plain").answer(path)
    forgotten = (np.asarray(found["probability"]) > 0.5) == np.asarray(table()["label"], dtype=bool)
    assert forgotten[:ROWS].mean() < first - 0.1


@pytest.mark.slow
def test_strategies_consolidate_where_a_task_ends(path: Path, tmp_path: Path) -> None:
    strategies = [{"name": "packnet", "tasks": 3}, {"name": "ewc", "strength": 1.0}]
    wanted = job(path, "learner.consolidate=task", strategy=strategies)
    with RunDirectory.create(tmp_path / "run", wanted.toml(), f"local:{wanted.fingerprint()}") as directory:
        engine = LocalEngine(wanted, tmp_path / "run")
        Loop(wanted, engine, directory).run()
        events = directory.table("events").to_pylist()
    assert [(event["increment"], event["kind"], event["what"]) for event in events] == [
        (5, "task", "task 1 begins"),
        (10, "task", "task 2 begins"),
    ]
    packnet = next(part for part in engine.participant.learner.strategies if isinstance(part, PackNet))
    assert packnet.done == 2

    out = tmp_path / "parts"
    for stop in (5, 7, 10):
        with RunDirectory.create(out, wanted.toml(), f"local:{wanted.fingerprint()}") as directory:
            loop = Loop(wanted, LocalEngine(wanted, out), directory)
            loop.on_progress = lambda _, loop=loop, stop=stop: loop.totals.increments >= stop and loop._stop.set()
            loop.run()
            loop.engine.close()
    resumed = run(wanted, out).summary
    assert resumed.events == {"task": 2}
    weights, _ = RunDirectory.open(out).load()
    assert all(torch.equal(value, weights[name]) for name, value in engine.weights().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (['strategy=[{name="packnet"}]'], r"packnet: expected a stream with boundaries .* got one cut by"),
        (['strategy=[{name="isolate"}]'], "isolate: expected a stream whose rows tell their task"),
        ([HEADS], "model.adapt task_heads: expected a column with the task of each row"),
        ([EXPERTS], "model.adapt experts: expected a column with the task of each row"),
        (["learner.consolidate=task"], "expected features.task with"),
    ],
)
def test_what_needs_tasks_or_boundaries_is_refused_without(path: Path, settings: list[str], message: str) -> None:
    document = job(path).document()
    del document["features"]["task"]
    wanted = Job.from_document(document, settings)
    with pytest.raises(JobError, match=message):
        LocalEngine(wanted, path.parent), wanted.controller()


@pytest.mark.parametrize("setting", ["learner.consolidate=500", "stream.every=file", "learner.consolidate=task"])
def test_boundaries_may_come_from_rows_files_or_tasks(path: Path, setting: str) -> None:
    assert LocalEngine(job(path, setting, 'strategy=[{name="packnet"}]'), path.parent).participants == ["all"]
    counted = job(path, 'strategy=[{name="packnet", every=5}]')
    assert LocalEngine(counted, path.parent).participants == ["all"]


def test_a_task_without_a_head_is_a_bad_row(path: Path, tmp_path: Path) -> None:
    two = 'model.adapt=[{name="task_heads", tasks=2}]'
    with pytest.raises(Exception, match=r"features.task: expected a task number from 0 to 1, 400 of 1200 rows"):
        run(job(path, two), tmp_path / "fail")
    summary = run(job(path, two, "features.on_bad_row=quarantine"), tmp_path / "run").summary
    assert (summary.rows_learned, summary.rows_quarantined) == (800, 400)
