"""A class that arrives in the middle of a stream: the job says how many there may be, and everything grows with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.engines import LocalEngine
from incr_core.errors import BadRows, JobError
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.registry import RunDirectory, state_folder
from incr_core.runs import Version, run
from incr_core.storage import checkpoint


def late_class(folder: Path) -> Path:
    """Eight increments of 150 rows around eight points; class 7 comes with the sixth, and with half of the rows."""
    draw = np.random.default_rng(0)
    centres = 3.0 * draw.normal(size=(8, 4))
    classes = draw.integers(0, 7, 1200)
    classes[750:][draw.random(450) < 0.5] = 7
    x = centres[classes] + 0.5 * draw.normal(size=(1200, 4))
    columns = {f"x{index}": x[:, index] for index in range(4)}
    table = pa.table({**columns, "who": draw.choice(["AA", "UA"], 1200), "kind": classes})
    pq.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet"


def growing(path: Path, *settings: str, **features: Any) -> Job:
    document = {
        "stream": {"path": str(path), "every": 150},
        "features": {"label": "kind", "numeric": [f"x{index}" for index in range(4)], "capacity": 12} | features,
        "model": {"hidden": [32]},
        "learner": {"objective": "multiclass", "epochs": 3, "optimizer": {"name": "adam", "lr": 0.01}},
        "strategy": [{"name": "ewc", "strength": 5.0}, {"name": "replay", "capacity": 200, "memory": "balanced"}],
        "federated": {"clients": "who"},
    }
    return Job.from_document(document, settings).resolved()


@pytest.mark.slow
def test_a_late_class_is_learned_and_no_class_yet_to_come_is_predicted(tmp_path: Path) -> None:
    path = late_class(tmp_path)
    run(growing(path), tmp_path / "run")
    before, after = Version.load(tmp_path / "run", 5), Version.load(tmp_path / "run")
    found = before.predict(path)
    assert found.column_names == ["row", "class", *(f"probability.{index}" for index in range(12))]
    assert max(found["probability.7"].to_pylist()) == 0.0
    found = after.predict(path)
    assert max(max(found[f"probability.{index}"].to_pylist()) for index in range(8, 12)) == 0.0
    assert after.evaluate(path)["accuracy"] > 0.95  # old classes too
    truth = pq.read_table(path)["kind"].to_numpy()
    right = np.array(found["class"].to_pylist())[truth == 7] == "7"
    assert right.mean() > 0.95


@pytest.mark.slow
def test_killed_before_and_after_the_class_arrives_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    job = growing(late_class(tmp_path))
    whole = run(job, tmp_path / "whole").summary
    for stop in (3, 6):
        with RunDirectory.create(tmp_path / "parts", job.toml(), f"local:{job.fingerprint()}") as directory:
            loop = Loop(job, LocalEngine(job, tmp_path / "parts"), directory)
            loop.on_progress = lambda _, loop=loop, stop=stop: loop.totals.increments >= stop and loop._stop.set()
            loop.run()
            loop.engine.close()
    assert run(job, tmp_path / "parts").summary.model_sha256 == whole.model_sha256


@pytest.mark.slow
def test_state_has_the_same_shapes_before_and_after(tmp_path: Path) -> None:
    """Optimiser, Fisher information and anchors have room for every class from the start."""
    run(growing(late_class(tmp_path)), tmp_path / "run")
    shapes = []
    for version in (7, 8):
        state, _ = checkpoint.load(state_folder(tmp_path / "run", "all", version))
        optimizer = state["learner"]["optimizer"]["state"]
        shapes.append({(place, name): value.shape for place, of in optimizer.items() for name, value in of.items()})
        assert (12, 32) in shapes[-1].values()
        strategies = state["learner"]["strategies"]
        fisher = [value for name, value in strategies.items() if "fisher" in name and value.shape == (12, 32)]
        assert fisher
        assert float(fisher[0][7].sum()) > 0 == float(fisher[0][8:].sum())
    assert shapes[0] == shapes[1]


def test_names_may_be_told_ahead_and_stay_unseen(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [0.0, 1.0] * 20, "y": ["ant", "bee"] * 20}), tmp_path / "rows.parquet")
    features = {"label": "y", "numeric": ["x"], "classes": ["ant", "bee", "cow"], "capacity": 3}
    run(growing(tmp_path / "rows.parquet", **features), tmp_path / "run")
    found = Version.load(tmp_path / "run").predict(tmp_path / "rows.parquet")
    assert set(found["probability.cow"].to_pylist()) == {0.0}
    total = found["probability.ant"].to_numpy() + found["probability.bee"].to_numpy()
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


@pytest.mark.slow
def test_a_class_beyond_the_capacity_is_a_bad_row(tmp_path: Path) -> None:
    path = late_class(tmp_path)
    with pytest.raises(BadRows, match=r"stream.features.kind: expected a class number from 0 to 6, .* something else"):
        run(growing(path, capacity=7), tmp_path / "run")
    assert run(growing(path, capacity=7, on_bad_row="quarantine"), tmp_path / "other").summary.rows_quarantined > 200
    with pytest.raises(JobError, match=r"features.capacity: expected at least the 3 classes named, got 2"):
        growing(path, capacity=2, classes=[0, 1, 2]).objective()
    with pytest.raises(JobError, match=r'features.capacity: expected with the objective "multiclass" only'):
        growing(path, "learner.objective=binary")
