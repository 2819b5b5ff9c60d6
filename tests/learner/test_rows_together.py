"""Models whose rows belong together, in one process: what a learner does about their last rows, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from incr_core.batch import Batch
from incr_core.errors import ArgumentError, JobError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.objectives import Multiclass


class Subclass(nn.BatchNorm1d):
    """A BatchNorm by another name."""


class Norm(nn.Module):
    """Normalises over rows, and is no BatchNorm by its class."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True)


def lazy() -> nn.Module:
    model = nn.Sequential(nn.LazyBatchNorm1d(), nn.Linear(4, 3))
    model(torch.randn(8, 4))
    return model


def batches_of(model: nn.Module, **settings: Any) -> list[int]:
    """How many rows the forwards get of 17 rows in batches of 8."""
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    draw = torch.Generator().manual_seed(0)
    labelled = Batch(torch.randn(17, 4, generator=draw), torch.randint(0, 3, (17,), generator=draw))
    learner = Learner(model, Multiclass(3), partial(torch.optim.SGD, lr=0.1), batch_size=8, **settings)
    assert learner.learn(labelled).num_rows == 17
    assert learner.steps_in(17) == len(seen)
    return seen


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)),
        lambda: nn.Sequential(Subclass(4), nn.Linear(4, 3)),
        lazy,
    ],
)
def test_a_last_row_joins_the_batch_before_it_where_any_sort_of_batch_norm_is(make: Callable[[], nn.Module]) -> None:
    assert batches_of(make()) == [8, 9]


def test_a_norm_of_ones_own_says_so_by_rows() -> None:
    with pytest.raises(ArgumentError, match=r'needs at least 2 rows .* set model\.rows = "together"$'):
        batches_of(nn.Sequential(Norm(), nn.Linear(4, 3)))
    assert batches_of(nn.Sequential(Norm(), nn.Linear(4, 3)), rows="together") == [8, 9]


def test_one_process_tries_nothing_out() -> None:
    for rows in (None, "independent"):
        assert batches_of(nn.Sequential(nn.Linear(4, 3)), rows=rows) == [8, 8, 1]


def test_shards_keep_rows_together_until_some_tell() -> None:
    learner = Learner(nn.Linear(4, 3), Multiclass(3), torch.optim.SGD, shard=(0, 2))
    equal = Batch(torch.ones(8, 4), torch.zeros(8, dtype=torch.int64))
    told = Batch(torch.eye(4).repeat(2, 1), torch.zeros(8, dtype=torch.int64))
    found = []
    for rows in (equal, told, equal):
        learner.begin(rows)
        found.append((learner.divides, len(learner.division.share(rows)[0])))
    assert found == [(False, 8), (True, 4), (True, 4)]


def test_rows_are_one_of_two() -> None:
    with pytest.raises(
        ArgumentError,
        match=r'^learner\.rows: expected "independent" or "together", got "both"$'.replace('"both"', "'both'"),
    ):
        Learner(nn.Linear(1, 1), Multiclass(2), torch.optim.SGD, rows="both")  # type: ignore[arg-type]


def test_a_job_says_it_of_its_model(table: Path) -> None:
    document = {
        "stream": {"path": str(table)},
        "features": {"label": "tall", "numeric": ["height"], "classes": [0, 1]},
        "learner": {"objective": "binary"},
    }
    job = Job.from_document(document)
    assert "rows" not in job.document()["model"]
    assert job.learner_for(1).division.rows is None
    said = job.with_settings(["model.rows=together"])
    assert said.learner_for(1).division.rows == "together"
    assert said.fingerprint() != job.fingerprint()
    with pytest.raises(JobError, match=r'model\.rows: expected "independent" or "together", got "both"'):
        job.with_settings(["model.rows=both"])
