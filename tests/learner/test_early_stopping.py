"""Early stopping: passes end when rows held back are answered no better, and those rows are learned too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from incr_core.batch import Batch
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.learner import EarlyStopping, Learner
from incr_core.objectives import Binary
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import check, count
from incr_core.runs import run


class Recorded(Learner):
    """A learner that remembers what it was given to learn, and what the held-back rows cost."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.passes: list[list[int]] = []
        self.costs: list[float] = []

    def again(self, labelled: Batch, passes: int | None = None) -> None:
        assert labelled.row_ids is not None
        self.passes.append(labelled.row_ids.tolist())
        super().again(labelled, passes)

    def loss_of(self, rows: Batch, batch_size: int = 8192) -> float:
        self.costs.append(super().loss_of(rows, batch_size))
        return self.costs[-1]


def noise(rows: int = 60) -> Batch:
    """Labels that have nothing to do with the inputs: all that can be learned of them is by heart."""
    draw = torch.Generator().manual_seed(0)
    targets = (torch.rand(rows, generator=draw) > 0.5).float()
    return Batch(torch.randn(rows, 20, generator=draw), targets, row_ids=torch.arange(rows))


def recorded() -> Recorded:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1))
    return Recorded(model, Binary(), lambda weights: torch.optim.Adam(weights, lr=0.02), batch_size=8)


@pytest.mark.parametrize("patience", [1, 3])
def test_it_stops_when_noise_is_learned_by_heart_and_keeps_the_best_pass(patience: int) -> None:
    learner, rows, stopping = recorded(), noise(), EarlyStopping(0.2, patience)
    kept, held = stopping.split(rows, seed=3)
    learner.begin(kept, 1)
    update = stopping.learn(learner, kept, held, passes=50)
    best = int(np.argmin(learner.costs))
    assert len(learner.costs) == best + 1 + patience < 50
    assert held.row_ids is not None
    assert [len(given) for given in learner.passes] == [48] * len(learner.costs) + [12]
    assert learner.passes[-1] == held.row_ids.tolist()
    assert update.num_rows == 60
    assert update.losses["validation"] / 60 == pytest.approx(min(learner.costs))

    # Without the rows held back, it stands where the best pass has left it.
    plain = recorded()
    plain.begin(kept, best + 1)
    plain.advance()
    stopped = recorded()
    stopped.again = lambda labelled, passes=None: (  # type: ignore[method-assign]
        None if len(labelled) == 12 else Recorded.again(stopped, labelled, passes)
    )
    stopped.begin(kept, 1)
    stopping.learn(stopped, kept, held, passes=50)
    assert all(torch.equal(value, plain.weights()[name]) for name, value in stopped.weights().items())


def test_what_still_gets_better_is_not_stopped() -> None:
    learner = recorded()
    inputs = torch.randn(80, 20, generator=torch.Generator().manual_seed(1))
    rows = Batch(inputs, (inputs[:, 0] > 0).float(), row_ids=torch.arange(80))
    stopping = EarlyStopping(0.1, 1)
    kept, held = stopping.split(rows, seed=0)
    learner.begin(kept, 1)
    stopping.learn(learner, kept, held, passes=3)
    assert len(learner.passes) == 4
    assert learner.costs == sorted(learner.costs, reverse=True)


@pytest.mark.parametrize(("rows", "passes", "applies"), [(4, 5, False), (6, 5, True), (100, 1, False), (1, 9, False)])
def test_too_few_rows_or_passes_have_nothing_to_stop(rows: int, passes: int, applies: bool) -> None:
    assert EarlyStopping(0.1, 1).applies(rows, passes) is applies


def job(path: Path, *settings: str) -> Job:
    document: dict[str, Any] = {
        "name": "stopping",
        "stream": {"path": str(path), "every": 100, "warm_start": 200},
        "features": {"label": "late", "numeric": ["x", "z"], "classes": [0, 1]},
        "model": {"hidden": [32], "dropout": 0.1},
        "learner": {"objective": "binary", "batch_size": 16, "epochs": 6, "validation": 0.2},
        "strategy": [{"name": "replay", "capacity": 50}, {"name": "ewc", "strength": 1.0}],
        "publish": {"every": 2},
    }
    return Job.from_document(document, settings)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(700, 2))
    late = (x[:, 0] + draw.normal(size=700) > 0).astype(np.int64)
    pq.write_table(pa.table({"x": x[:, 0], "z": x[:, 1], "late": late}), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


@pytest.mark.slow
def test_every_row_is_in_the_ledger_once_and_a_run_resumes(path: Path, tmp_path: Path) -> None:
    whole = run(job(path), tmp_path / "whole").summary
    directory = RunDirectory.open(tmp_path / "whole")
    check(directory.table("ledger"))
    assert count(directory.table("ledger")) == whole.rows_learned == 700
    assert all(value > 0 for value in directory.table("metrics")["loss.validation"].to_pylist())
    seen: list[int] = []

    def stop(_: str, __: object) -> None:
        seen.append(0)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job(path), tmp_path / "parts", on_progress=stop)
    assert run(job(path), tmp_path / "parts").summary.model_sha256 == whole.model_sha256
    assert run(job(path, "learner.epochs=1", "learner.warm_epochs=3"), tmp_path / "warm").summary.rows_learned == 700


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["learner.epochs=1"], "learner.validation: expected several passes"),
        (["cluster.average_every=2"], "learner.validation: expected cluster.average_every = 0"),
    ],
)
def test_what_cannot_be_stopped_is_refused(path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(JobError, match=message):
        job(path, *settings).participant()
