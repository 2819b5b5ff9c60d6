"""A run whose weights are rounded on their way: it repeats, resumes to the bit, and sends less."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from incr_core.job import Job
from incr_core.models import TableShape
from tests.support.cluster_runs import Learned, learned_on_cluster, run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

REPLAY = {"name": "replay", "capacity": 60, "ratio": 1.0}


def wide_net(shape: TableShape) -> nn.Module:
    """A job's factory."""
    return nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 400), nn.ReLU(), nn.Linear(400, shape.outputs))


def job_of(small_job: Callable[..., Job], wire: str) -> Job:
    return small_job(
        f"cluster.wire={wire}",
        "cluster.average_every=2",
        "features.categorical=[]",
        "model={factory='tests.cluster.test_wire:wide_net'}",
        "outer={name='nesterov', lr=0.7, momentum=0.5}",
        strategy=[REPLAY],
    )


def flat(run: Learned) -> Tensor:
    return torch.cat([value.double().flatten() for value in run.weights.values()])


def test_law_1_a_resumed_run_equals_an_uninterrupted_one(small_job: Callable[..., Job], tmp_path: Path) -> None:
    job = job_of(small_job, "int8")
    whole = run(job, tmp_path / "whole")
    run(job, tmp_path / "parts", increments=2)
    assert run(job, tmp_path / "parts") == whole, "what rounding has left over is kept with the version"


@pytest.mark.chaos
def test_rounded_weights_come_near_exact_ones_with_fewer_bytes(small_job: Callable[..., Job], tmp_path: Path) -> None:
    exact = learned_on_cluster(job_of(small_job, "float32"), tmp_path / "float32")
    for wire, share, gap in (("float16", 0.53, 1e-3), ("int8", 0.28, 0.02)):
        rounded = learned_on_cluster(job_of(small_job, wire), tmp_path / wire)
        sent = [sum(done.bytes_exchanged for done in each.rounds) for each in (rounded, exact)]
        assert sent[0] < share * sent[1]
        assert 0 < (flat(rounded) - flat(exact)).norm() < gap * flat(exact).norm()
