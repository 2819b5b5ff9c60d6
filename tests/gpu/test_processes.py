"""Workers that share a GPU: their groups, their exchange over gloo, FSDP of one shard; Ray has no part in it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from cluster import _process_groups as groups
from cluster._devices import backend_among, device_here
from cluster._exchange import ReplicaExchange
from cluster._rank import Rank
from cluster._rendezvous import Rendezvous
from cluster._shared_folder import SharedFolder
from cluster._worker import ShardWorker
from cluster._worker_messages import Setup
from incr_core.batch import Batch
from incr_core.errors import JobError
from incr_core.learner import Learner
from incr_core.models import TableShape
from incr_core.numerics import FlatTensors, nccl_group, settle_arithmetic, whole
from incr_core.objectives import Multiclass
from incr_core.rounds import EverySteps, total_observed
from incr_core.update import Update, mean
from tests.support.shards import TwoShards, numbers_job

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

PATIENCE = timedelta(seconds=60)


@pytest.fixture(scope="module")
def two() -> Iterator[TwoShards]:
    with TwoShards() as both:
        yield both


def plain_of(shape: TableShape) -> nn.Module:
    """A job's factory."""
    return nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, shape.outputs))


PLAIN = "tests.gpu.test_processes:plain_of"


def all_learned(
    place: Rank, meeting: Rendezvous, job: dict[str, Any], folder: SharedFolder
) -> tuple[dict[str, Tensor], str, int]:
    """By one of two replicas: its weights, the kind of its group, and the bytes it has sent."""
    place = Rank(place.shard, 2, 0, 1)
    worker = ShardWorker()
    worker.build(place, f"alive/{place}", 1, Setup(job, {}, meeting, folder))
    worker.join(1, 2)
    while (received := worker.receive()) is not None:
        observed = FlatTensors.of(total_observed([received.arrival]))
        worker.learn(pickle.dumps((observed, EverySteps(2))))
    exchange = worker.contributor.exchange
    assert isinstance(exchange, ReplicaExchange)
    found = {
        name: value.detach().cpu().clone() for name, value in worker.contributor.participant.learner.weights().items()
    }
    return found, type(exchange.group).__name__, exchange.bytes_sent


@pytest.mark.parametrize("wire", ["float32", "int8"])
def test_two_replicas_on_one_gpu_exchange_over_gloo(two: TwoShards, people: Path, tmp_path: Path, wire: str) -> None:
    found, folder = {}, SharedFolder.mark(tmp_path)
    for device in ("cpu", "cuda"):
        asked = "cluster.replicas=2", "cluster.average_every=2", f"cluster.wire={wire}"
        job = numbers_job(people, PLAIN, f"learner.device={device}", *asked).model_dump()
        (first, kind, sent), (second, _, _) = two.run(all_learned, job, folder, group=False)
        assert all(torch.equal(value, second[name]) for name, value in first.items())
        assert kind == "ProcessGroupGloo"
        found[device] = first, sent
    assert found["cpu"][1] == found["cuda"][1]
    for name, value in found["cpu"][0].items():
        torch.testing.assert_close(found["cuda"][0][name], value, rtol=1e-2, atol=1e-2)


def merged(place: Rank, meeting: Rendezvous, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What two processes make of their tensors on one GPU, and what one place does."""
    rank = place.shard
    group = groups.between_replicas(Rank(rank, 2, 0, 1), meeting.join(), 1, "cuda", PATIENCE)
    rules = {"n": "sum", "m": "max"}

    def drawn(rank: int, device: str) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(rank)
        made = {"w": torch.randn(count, generator=draw), "n": torch.ones(3) * rank, "m": torch.tensor([rank])}
        return {name: value.to(device) for name, value in made.items()}

    anchor = {"n": torch.full((3,), 0.5)}
    wanted = mean([Update(drawn(each, "cpu"), rows) for each, rows in enumerate((3, 5))], anchor, rules)
    own = drawn(rank, "cuda")
    exchange = ReplicaExchange(group, rank, 2)
    found, rows = exchange.mean(Update(own, (3, 5)[rank]), {"n": anchor["n"].cuda()}, rules)
    assert rows == 8
    assert exchange.total(rank + 1, torch.device("cuda")) == 3
    assert all(found[name].data_ptr() == own[name].data_ptr() for name in own)
    return {name: value.cpu() for name, value in found.items()}, wanted


@pytest.mark.parametrize("count", [7, 300_000])
def test_what_is_merged_over_gloo_has_the_bits_of_one_place(two: TwoShards, count: int) -> None:
    """In one message, and wave by wave."""
    for found, wanted in two.run(merged, count, group=False):
        assert all(torch.equal(found[name], value) for name, value in wanted.items())


def shards_of_one(place: Rank, meeting: Rendezvous) -> str:
    try:
        groups.inside_replica(place, meeting.join(), 1, "cuda", PATIENCE)
    except JobError as error:
        return str(error)
    return ""


def test_shards_that_share_a_gpu_are_refused(two: TwoShards) -> None:
    for told in two.run(shards_of_one, group=False):
        assert "cluster.shards: expected a GPU for each of the 2 shards of replica 0, got 1" in told


def test_a_device_has_a_name() -> None:
    assert device_here("cuda") == device_here("cuda:0") != ""
    assert backend_among(HashStore(), 0, 1, "cuda", PATIENCE) == ("nccl", [device_here("cuda")])


def test_a_group_of_nccl_of_one_worker() -> None:
    group = nccl_group(HashStore(), 0, 1, PATIENCE)
    told = torch.empty(1, dtype=torch.int64, device="cuda")
    group.alltoall_base(told, torch.tensor([7], device="cuda"), [], []).wait()
    assert told.item() == 7


def test_one_shard_learns_what_an_unsharded_model_does() -> None:
    settle_arithmetic(1, "cuda")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")

    def learner(shards: bool) -> Learner:
        torch.manual_seed(0)
        model: nn.Module = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3)).cuda()
        if shards:
            groups.shard_model(model, Rank(0, 1, 0, 1), "cuda")
        return Learner(model, Multiclass(3), partial(torch.optim.SGD, lr=0.1, momentum=0.9), batch_size=8)

    draw = torch.Generator().manual_seed(1)
    rows = Batch(torch.randn(64, 4, generator=draw), torch.randint(3, (64,), generator=draw))
    store = HashStore()
    groups.inside_replica(Rank(0, 1, 0, 1), store, 1, "cuda", PATIENCE)
    try:
        found = []
        for shards in (False, True):
            one = learner(shards)
            one.learn(rows)
            found.append({name: whole(value).detach().cpu().clone() for name, value in one.weights().items()})
    finally:
        dist.destroy_process_group()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-5, atol=1e-6)
