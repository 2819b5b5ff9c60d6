"""Law 4 for models of all sorts: two shards learn what one process learns, and hold the same at the end of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cluster import groups
from cluster.place import Place
from cluster.rendezvous import Rendezvous
from cluster.shared_folder import SharedFolder
from cluster.units import units_of
from cluster.worker import Setup, ShardWorker
from incr_core.batch import Batch
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.models import TableShape
from incr_core.numerics import whole
from incr_core.objectives import Multiclass
from incr_core.rounds import total_observed
from incr_core.strategies.mechanisms import fisher_diagonal
from tests.support.cluster_runs import learned_locally
from tests.support.repository import ROOT
from tests.support.shards import TwoShards

pytestmark = pytest.mark.ray


def rows(count: int = 45, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(count, 4, generator=draw), torch.randint(0, 3, (count,), generator=draw))


def learner_of(model: nn.Module, shard: tuple[int, int] = (0, 1), **settings: Any) -> Learner:
    """Batches of 8 rows, the last of one; two to a step, whose gradient is clipped."""
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    return Learner(model, Multiclass(3), sgd, batch_size=8, accumulate=2, clip=1.0, shard=shard, **settings)


def sharded(make: Callable[[], nn.Module], place: Place, **settings: Any) -> Learner:
    torch.manual_seed(0)
    return learner_of(groups.shard_model(make(), place, "cpu"), (place.shard, place.shards), **settings)


def held(learner: Learner) -> dict[str, Tensor]:
    return {name: whole(value).clone() for name, value in learner.weights().items()}


def learned_in_shards(place: Place, make: Callable[[], nn.Module], settings: dict[str, Any]) -> tuple[Any, bool]:
    learner = sharded(make, place, **settings)
    for seed in range(2):
        learner.learn(rows(seed=seed))
    return held(learner), learner.divides


def learned_alone(make: Callable[[], nn.Module], **settings: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    learner = learner_of(make(), **settings)
    for seed in range(2):
        learner.learn(rows(seed=seed))
    return held(learner)


def gap(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((value.detach() - other[name]).abs().max()) for name, value in one.items() if value.numel())


# -- models whose rows belong together -----------------------------------------------------------------------------


class OwnNorm(nn.BatchNorm1d):
    """A subclass with a forward of its own: without the affine part, and with every batch counting as much."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean.mul_(0.5).add_(0.5 * x.detach().mean(0))
        self.running_var.mul_(0.5).add_(0.5 * x.detach().var(0))
        return (x - x.mean(0)) / (x.var(0) + self.eps).sqrt()


class Centred(nn.Module):
    """Takes off a moving mean of all rows; `mean` is moved in place, and `count` counts rows."""

    merge: ClassVar[dict[str, str]] = {"count": "sum"}

    mean: Tensor
    count: Tensor
    batches: Tensor

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
            self.count += len(x)
            self.batches += 1
        return x - self.mean


class Codebook(nn.Module):
    """Every row is moved towards the nearest of three codes, which follow the rows nearest to them."""

    codes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.eye(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x, self.codes).argmin(1)
        if self.training:
            for code in set(nearest.tolist()):
                self.codes[code] = 0.9 * self.codes[code] + 0.1 * x[nearest == code].detach().mean(0)
        return 0.5 * (x + self.codes[nearest])


class Branching(nn.Module):
    """Rows choose together which of two layers, gathered apart, they all go through."""

    def __init__(self) -> None:
        super().__init__()
        self.ways = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.ways[int(x.mean() > 0)](x)
        return output


def behind(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def batch_norm() -> nn.Module:
    return behind(nn.Linear(4, 4), nn.BatchNorm1d(4))


def own_norm() -> nn.Module:
    return behind(nn.Linear(4, 4), OwnNorm(4))


def instance_norm() -> nn.Module:
    return behind(nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten())


def moving_mean() -> nn.Module:
    return behind(Centred())


def codebook() -> nn.Module:
    return behind(nn.Linear(4, 4), Codebook())


def dropout() -> nn.Module:
    return behind(nn.Linear(4, 4), nn.Dropout(0.5))


def perceptron() -> nn.Module:
    return behind(nn.Linear(4, 4), nn.LayerNorm(4))


@pytest.mark.parametrize(
    "make",
    [batch_norm, own_norm, instance_norm, moving_mean, codebook, dropout, Branching],
    ids=lambda make: make.__name__,
)
def test_where_rows_belong_together_each_shard_takes_the_whole_batch(
    make: Callable[[], nn.Module], two_shards: TwoShards
) -> None:
    (first, divides), (second, _) = two_shards.run(learned_in_shards, make, {})
    assert not divides
    assert all(value.equal(second[name]) for name, value in first.items())
    assert gap(first, learned_alone(make)) < 1e-6


def test_where_rows_are_independent_shards_divide_them(two_shards: TwoShards) -> None:
    (first, divides), (second, _) = two_shards.run(learned_in_shards, perceptron, {})
    assert divides
    assert all(value.equal(second[name]) for name, value in first.items())
    assert gap(first, learned_alone(perceptron)) < 1e-6
    (first, divides), _ = two_shards.run(learned_in_shards, perceptron, {"rows": "together"})
    assert not divides
    assert gap(first, learned_alone(perceptron, rows="together")) < 1e-6


# -- rows said to be independent -----------------------------------------------------------------------------------


def masks_of(place: Place) -> tuple[list[Tensor], Tensor]:
    """What Dropout leaves in this shard of rows of ones, in three batches of which the last is one row; and where the
    chance of the whole replica stands afterwards."""
    seen: list[Tensor] = []
    learner = sharded(lambda: behind(nn.Dropout(0.5)), place, rows="independent", shuffle=False)
    next(learner.model.children()).register_forward_hook(lambda _, __, output: seen.append(output.detach().clone()))
    seen.clear()
    labelled = Batch(torch.ones(17, 4), torch.zeros(17, dtype=torch.int64))
    learner.begin(labelled)
    learner._steps.smallest = 1
    seen.clear()
    learner.advance()
    return seen, learner.random_state.state_dict()["cpu"]


def test_each_shard_draws_its_own_chance_for_its_own_rows(two_shards: TwoShards) -> None:
    (first, one), (second, other) = two_shards.run(masks_of)
    assert [len(part) for part in first] == [len(part) for part in second] == [4, 4, 1]
    assert not first[0].equal(second[0])
    assert not first[1].equal(second[1])
    assert first[2].equal(second[2]), "a batch that cannot be divided is the same in both"
    assert one.equal(other)


# -- going on from a saved state -----------------------------------------------------------------------------------


def gone_on(place: Place) -> tuple[dict[str, Tensor], dict[str, Tensor], bool]:
    """Weights of a learner, and of one that went on from its state where equal rows tell nothing."""
    learners = [sharded(perceptron, place) for _ in range(2)]
    learners[0].learn(rows())
    learners[1].load_state_dict(learners[0].state_dict())
    learners[1].adopt(held(learners[0]))
    equal = Batch(torch.ones(9, 4), torch.tensor([0, 1, 2] * 3))
    for learner in learners:
        learner.learn(equal)
    return held(learners[0]), held(learners[1]), learners[1].divides


def test_what_was_found_out_about_rows_is_part_of_the_state(two_shards: TwoShards) -> None:
    for through, again, divides in two_shards.run(gone_on):
        assert divides
        assert all(value.equal(again[name]) for name, value in through.items())


# -- models that FSDP is particular about --------------------------------------------------------------------------


class Layers(nn.Module):
    """Three layers in a list, put together in one way or another."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)])
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        if how == "tied":
            self.layers[1].weight = first.weight
        elif how == "tied to what is outside":
            self.other = nn.Linear(4, 4)
            self.other.weight = first.weight
        elif how == "twice in the list":
            self.layers[1] = first
        elif how == "in the list and outside":
            self.other = first
        elif how == "within two layers":
            self.layers[0], self.layers[1] = nn.Sequential(first, nn.ReLU()), nn.Sequential(nn.Linear(4, 4), first)
        elif how == "lists in a list":
            self.layers[0] = nn.ModuleList([first])
        elif how == "not contiguous":
            first.weight = nn.Parameter(first.weight.detach().t())
        elif how == "two types":
            self.other, self.head = nn.Linear(4, 4).double(), nn.Linear(3, 3)
        elif how == "without elements":
            self.nothing = nn.Parameter(torch.zeros(0, 4))
        elif how == "not called":
            self.other = first

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        if self.how == "not called":
            assert isinstance(first, nn.Linear)
            x = F.linear(x, first.weight)
        else:
            x = (first[0] if isinstance(first, nn.ModuleList) else first)(x).relu()
        x = second(x)
        if hasattr(self, "other"):
            x = self.other(x.to(self.other.weight.dtype)).float()
        output: Tensor = last(x)
        if hasattr(self, "head"):
            output = self.head(output)
        return output


WAYS = [
    "tied",
    "tied to what is outside",
    "twice in the list",
    "in the list and outside",
    "within two layers",
    "lists in a list",
    "not contiguous",
    "two types",
    "without elements",
]


@pytest.mark.parametrize("how", WAYS)
def test_a_model_put_together_in_any_way_learns_the_same_in_shards(how: str, two_shards: TwoShards) -> None:
    make = partial(Layers, how)
    (first, divides), (second, _) = two_shards.run(learned_in_shards, make, {})
    assert divides
    assert all(value.equal(second[name]) for name, value in first.items())
    assert gap(first, learned_alone(make)) < 1e-6


def test_layers_are_gathered_one_at_a_time_unless_they_share_a_parameter() -> None:
    def alone(how: str) -> list[bool]:
        model = Layers(how)
        units = units_of(model)
        assert units[-1] is model
        return [layer in units for layer in model.layers]

    assert alone("plain") == [True, True, True]
    assert alone("tied") == [False, False, True]
    assert alone("tied to what is outside") == [False, True, True]
    assert alone("twice in the list") == [True, True, True]
    assert alone("in the list and outside") == [True, True, True]
    assert alone("within two layers") == [False, False, True]


def with_scalar() -> nn.Module:
    model = nn.Linear(4, 3)
    model.scale = nn.Parameter(torch.tensor(1.0))
    return model


def in_one_memory() -> nn.Module:
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.weight = nn.Parameter(one.weight.detach()[1:])
    return nn.Sequential(one, other)


def mixed_leaf() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    model[0].bias = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    return model


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (with_scalar, "got scale, a single number without a dimension; give it the shape (1,)"),
        (in_one_memory, "got 1.weight, in the memory of another, 0.weight; make both one nn.Parameter"),
        (mixed_leaf, "got 0.bias, float64 where 0.weight is float32, and the two must be gathered together; "),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "got 0.weight, not made yet; "),
        (lambda: nn.Embedding(9, 4, max_norm=1.0), "got weight, of an Embedding with max_norm, "),
        (lambda: behind(nn.EmbeddingBag(9, 4, max_norm=1.0)), "got 0.weight, of an EmbeddingBag with max_norm, "),
        (lambda: nn.Sequential(nn.Embedding(9, 4, sparse=True)), "got 0.weight, of an Embedding with sparse gradients"),
    ],
)
def test_what_cannot_be_sharded_is_refused_by_name(make: Callable[[], nn.Module], told: str) -> None:
    model = make()
    with pytest.raises(JobError) as raised:
        groups.shard_model(model, Place(0, 1, 0, 2), "cpu")
    message = str(raised.value)
    assert message.startswith("cluster.shards: expected parameters that can be sharded, " + told), message
    assert message.endswith(", or set shards = 1")


def hooked_fisher(place: Place | None) -> Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    if place is not None:
        groups.shard_model(model, place, "cpu")
    model[0].register_forward_hook(lambda _, __, output: 3 * output)
    return fisher_diagonal(model, Multiclass(3), rows())["0.weight"]


def test_the_hooks_of_others_are_called_where_sharded_weights_are_gathered(two_shards: TwoShards) -> None:
    for found in two_shards.run(hooked_fisher):
        assert (found - hooked_fisher(None)).abs().max() < 1e-7


# -- workers -------------------------------------------------------------------------------------------------------


def norm_of(shape: TableShape) -> nn.Module:
    """A job's factory."""
    return nn.Sequential(nn.BatchNorm1d(2), Centred(2), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, shape.outputs))


def uncalled_of(shape: TableShape) -> nn.Module:
    """A job's factory."""
    return nn.Sequential(nn.Linear(2, 4), Layers("not called"))


def numbers_job(people: Path, *settings: str) -> Job:
    document = {
        "name": "people",
        "root": str(ROOT),
        "stream": {"path": str(people), "every": 100},
        "features": {"label": "size", "numeric": ["height", "weight"], "classes": ["large", "medium", "small"]},
        "model": {"factory": "tests.cluster.test_shards:norm_of"},
        "learner": {"objective": "multiclass", "batch_size": 16, "optimizer": {"name": "sgd", "lr": 0.1}},
        "cluster": {"replicas": 1, "shards": 2},
    }
    return Job.from_document(document, settings).resolved()


def worker_of(place: Place, meeting: Rendezvous, job: dict[str, Any]) -> ShardWorker:
    torch.distributed.is_initialized() and torch.distributed.destroy_process_group()
    folder = Path(tempfile.mkdtemp())
    worker = ShardWorker()
    worker.build(place, f"alive/{place}", 1, Setup(job, {}, meeting, SharedFolder.mark(folder)))
    worker.join(1)
    shutil.rmtree(folder)
    return worker


def increments_of(worker: ShardWorker, count: int) -> None:
    for _ in range(count):
        received = [worker.receive()]  # the first shard alone tells
        torch.distributed.broadcast_object_list(received, src=0)
        assert received[0] is not None
        worker.learn(total_observed([received[0].arrival]), rounds=1, every=None, hands_over=False)


def weights_of(worker: ShardWorker) -> dict[str, Tensor]:
    return held(worker.worker.participant.learner)


def all_learned(place: Place, meeting: Rendezvous, job: dict[str, Any]) -> dict[str, Tensor]:
    worker = worker_of(place, meeting, job)
    increments_of(worker, 5)
    return weights_of(worker)


def learned_in_two_lives(
    place: Place, meeting: Rendezvous, job: dict[str, Any], folder: Path, version: int | None
) -> dict[str, Tensor]:
    """Two increments, a commit of version 2, one more that is lost, and on from the commit of that version."""
    worker = worker_of(place, meeting, job)
    increments_of(worker, 2)
    worker.save(2, folder / str(place.shard))
    handed = worker.hand_over()
    committed = [handed.weights if handed else None]
    torch.distributed.broadcast_object_list(committed, src=0)
    increments_of(worker, 1)
    worker.start(version, folder / str(place.shard), committed[0])
    increments_of(worker, 3)
    return weights_of(worker)


def test_workers_keep_the_statistics_of_whole_batches_through_a_resume(
    people: Path, two_shards: TwoShards, tmp_path: Path
) -> None:
    job = numbers_job(people)
    first, second = two_shards.run(all_learned, job.model_dump(), group=False)
    assert all(value.equal(second[name]) for name, value in first.items())
    assert gap(first, learned_locally(job, tmp_path).weights) < 1e-5
    for version in (2, None):  # from memory, and from disk
        for again in two_shards.run(learned_in_two_lives, job.model_dump(), tmp_path, version, group=False):
            assert all(value.equal(again[name]) for name, value in first.items())


def test_buffers_of_rows_said_to_be_independent_merge_by_their_rules(
    people: Path, two_shards: TwoShards, tmp_path: Path
) -> None:
    job = numbers_job(people, "model.rows=independent", "stream.every=32", "learner.shuffle=false")
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


def one_learned(place: Place, meeting: Rendezvous, job: dict[str, Any]) -> dict[str, Tensor]:
    worker = worker_of(place, meeting, job)
    increments_of(worker, 1)
    return weights_of(worker)


def test_a_layer_that_is_not_called_is_told(people: Path, two_shards: TwoShards) -> None:
    job = numbers_job(people, "model.factory=tests.cluster.test_shards:uncalled_of")
    with pytest.raises(
        JobError, match=r"reads the weights of a layer of 1.layers without calling it, .* call the layer, "
    ):
        two_shards.run(one_learned, job.model_dump(), group=False)


def test_a_norm_that_counts_over_all_shards_is_refused_where_each_takes_whole_batches() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.SyncBatchNorm(3))
    with pytest.raises(JobError, match=r"^cluster\.shards: the model has SyncBatchNorm, .* use BatchNorm, or set"):
        learner_of(model, (0, 2)).learn(rows())
