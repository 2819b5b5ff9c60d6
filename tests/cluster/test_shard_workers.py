"""Shard workers keep buffers by their rules, through a resume and in two shards."""

from __future__ import annotations

import pickle
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cluster._rank import Rank
from cluster._rendezvous import Rendezvous
from cluster._shared_folder import SharedFolder
from cluster._worker import ShardWorker
from cluster._worker_messages import SavedAt, Setup
from incr_core.errors import JobError
from incr_core.models import TableShape
from incr_core.numerics import FlatTensors
from incr_core.rounds import EverySteps, total_observed
from tests.support.cluster_runs import learned_locally
from tests.support.sharded_learners import (
    Centred,
    Layers,
    gap,
    held,
)
from tests.support.shards import TwoShards, numbers_job

pytestmark = pytest.mark.ray


def norm_of(shape: TableShape) -> nn.Module:
    """A job's factory."""
    return nn.Sequential(nn.BatchNorm1d(2), Centred(2), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, shape.outputs))


def uncalled_of(shape: TableShape) -> nn.Module:
    """A job's factory."""
    return nn.Sequential(nn.Linear(2, 4), Layers("not called"))


NORM, UNCALLED = "tests.cluster.test_shard_workers:norm_of", "tests.cluster.test_shard_workers:uncalled_of"
SHARDED = ("cluster.replicas=1", "cluster.shards=2")


def worker_of(place: Rank, meeting: Rendezvous, job: dict[str, Any], folder: Path | None = None) -> ShardWorker:
    """folder: where it keeps its states; None: nowhere."""
    torch.distributed.is_initialized() and torch.distributed.destroy_process_group()
    with tempfile.TemporaryDirectory() as nowhere:
        worker = ShardWorker()
        shared = SharedFolder.mark(Path(nowhere) if folder is None else folder)
        worker.build(place, f"alive/{place}", 1, Setup(job, {}, meeting, shared))
        worker.join(1, place.replicas)
    return worker


def increments_of(worker: ShardWorker, count: int) -> None:
    for _ in range(count):
        received = [worker.receive()]  # the first shard alone tells
        torch.distributed.broadcast_object_list(received, src=0)
        assert received[0] is not None
        observed = FlatTensors.of(total_observed([received[0].arrival]))
        worker.learn(pickle.dumps((observed, EverySteps())))


def weights_of(worker: ShardWorker) -> dict[str, Tensor]:
    return held(worker.contributor.participant.learner)


def all_learned(place: Rank, meeting: Rendezvous, job: dict[str, Any]) -> dict[str, Tensor]:
    worker = worker_of(place, meeting, job)
    increments_of(worker, 5)
    return weights_of(worker)


def learned_in_two_lives(
    place: Rank, meeting: Rendezvous, job: dict[str, Any], folder: Path, version: int | None
) -> dict[str, Tensor]:
    """Two increments, a commit of version 2, one more that is lost, and on from the commit of that version."""
    worker = worker_of(place, meeting, job, folder := folder / str(place.shard))
    increments_of(worker, 2)
    worker.save(2)
    handed = worker.hand_over()
    committed = [handed.weights if handed else None]
    torch.distributed.broadcast_object_list(committed, src=0)
    increments_of(worker, 1)
    worker.start(version, SavedAt([[place.state(folder, 2)]]), committed[0])
    increments_of(worker, 3)
    return weights_of(worker)


def test_workers_keep_the_statistics_of_whole_batches_through_a_resume(
    people: Path, two_shards: TwoShards, tmp_path: Path
) -> None:
    job = numbers_job(people, NORM, *SHARDED)
    first, second = two_shards.run(all_learned, job.model_dump(), group=False)
    assert all(value.equal(second[name]) for name, value in first.items())
    assert gap(first, learned_locally(job, tmp_path).weights) < 1e-5
    for version in (2, None):  # from memory, and from disk
        for again in two_shards.run(learned_in_two_lives, job.model_dump(), tmp_path, version, group=False):
            assert all(value.equal(again[name]) for name, value in first.items())


def test_buffers_of_rows_said_to_be_independent_merge_by_their_rules(
    people: Path, two_shards: TwoShards, tmp_path: Path
) -> None:
    job = numbers_job(people, NORM, *SHARDED, "model.rows=independent", "stream.every=32", "learner.shuffle=false")
    first, second = two_shards.run(one_learned, job.model_dump(), group=False)
    assert all(value.equal(second[name]) for name, value in first.items())
    x = next(iter(job.data().increments(None))).labelled.inputs
    assert isinstance(x, Tensor)
    batches = [(x[start : start + 16][0::2], x[start : start + 16][1::2]) for start in (0, 16)]
    mean, var = torch.zeros(2), torch.ones(2)
    for batch in batches:
        mean = 0.9 * mean + 0.1 * sum(part.mean(0) for part in batch) / 2
        var = 0.9 * var + 0.1 * sum(part.var(0) for part in batch) / 2
    assert first["model.0.running_mean"].sub(mean).abs().max() < 1e-4
    assert (first["model.0.running_var"] / var - 1).abs().max() < 1e-5
    assert first["model.0.num_batches_tracked"] == 2  # the larger count
    assert first["model.1.count"] == 32  # each row once
    assert first["model.1.batches"] == 2


def one_learned(place: Rank, meeting: Rendezvous, job: dict[str, Any]) -> dict[str, Tensor]:
    worker = worker_of(place, meeting, job)
    increments_of(worker, 1)
    return weights_of(worker)


def test_a_layer_that_is_not_called_is_told(people: Path, two_shards: TwoShards) -> None:
    job = numbers_job(people, UNCALLED, *SHARDED)
    with pytest.raises(
        JobError, match=r"reads the weights of a layer of 1.layers without calling it, .* call the layer, "
    ):
        two_shards.run(one_learned, job.model_dump(), group=False)


@pytest.mark.parametrize(("told", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_the_rate_follows_the_number_of_replicas(told: str, factor: float, people: Path) -> None:
    job = numbers_job(people, NORM, "cluster.replicas=4", "cluster.shards=1", f"cluster.scale_lr={told}")
    meeting, _store = Rendezvous.open("127.0.0.1", timedelta(seconds=20))
    worker = ShardWorker()
    with tempfile.TemporaryDirectory() as folder:
        place, shared = Rank(1, 4, 0, 1), SharedFolder.mark(Path(folder))
        worker.build(place, "alive", 1, Setup(job.model_dump(), {}, meeting, shared))
        learner = worker.contributor.participant.learner
    learner.load_state_dict({**learner.state_dict(), "rate": 3.0})
    assert learner.descent.factor == 3.0 * factor, "beside what a drift has raised"
