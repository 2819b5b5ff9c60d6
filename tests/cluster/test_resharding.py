"""A run goes on with more or fewer shards: from the same state, bit for bit, to the same weights, to rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cluster import _process_groups as groups
from cluster._rank import Rank
from incr_core.errors import CheckpointError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.numerics import whole
from incr_core.objectives import Multiclass
from incr_core.registry import RunDirectory
from incr_core.rounds import SavedState
from incr_core.storage import checkpoint
from incr_core.strategies import EWC, SI, Replay
from tests.support.cluster_runs import learned_locally, rows_learned, run
from tests.support.sharded_learners import gap, held, rows
from tests.support.shards import TwoShards

pytestmark = pytest.mark.ray

WIDTHS = (4, 7, 3)
"""Rows that neither 2 nor 3 divide, and fewer of them than 4 shards."""


def learner_of(
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model, shard: tuple[int, int] = (0, 1)
) -> Learner:
    torch.manual_seed(0)
    first, second = nn.Linear(*WIDTHS[:2]), nn.Linear(*WIDTHS[1:])
    strategies = [EWC(strength=5.0), SI(strength=1.0), Replay(capacity=20)]
    adam = partial(torch.optim.Adam, lr=0.01)
    model = wrap(nn.Sequential(first, nn.ReLU(), second))
    return Learner(model, Multiclass(3), adam, strategies, batch_size=8, shard=shard)


def sharded(place: Rank) -> Learner:
    return learner_of(lambda model: groups.shard_model(model, place, "cpu"), (place.shard, place.shards))


def state_of(learner: Learner) -> dict[str, Any]:
    """A worker's, with a velocity for each weight, as the outer step has it."""
    velocity = {name: 2 * value for name, value in learner.weights().items()}
    local = {name: getattr(value, "to_local", lambda value=value: value)() for name, value in velocity.items()}
    return {"learner": learner.state_dict(), "exchanged": {"outer": {"velocity": local}, "summed": None, "left": {}}}


def tensors_in(node: Any, key: str = "") -> dict[str, Tensor]:
    if isinstance(node, Tensor):
        return {key: node}
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    found: dict[str, Tensor] = {}
    for name, value in items:
        found |= tensors_in(value, f"{key}/{name}")
    return found


def assert_same(one: Any, other: Any) -> None:
    ours, theirs = tensors_in(one), tensors_in(other)
    assert ours.keys() == theirs.keys()
    assert not [name for name, value in ours.items() if not value.equal(theirs[name])]


def cut(paths: list[Path], shard: tuple[int, int]) -> dict[str, Any]:
    learner = learner_of()
    learner.shard = shard
    return SavedState(paths, cut=True).load(learner)


@pytest.fixture
def taught() -> Learner:
    learner = learner_of()
    for seed in range(2):
        learner.learn(rows(seed=seed))
    return learner


def test_what_is_cut_and_put_together_again_is_the_same(taught: Learner, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "whole", state_of(taught))
    paths = [tmp_path / "whole"]
    for count in (2, 3, 4, 2, 1):
        parts = [cut(paths, (shard, count)) for shard in range(count)]
        paths = [tmp_path / f"{count}-{shard}-{len(paths)}" for shard in range(count)]
        for path, part in zip(paths, parts, strict=True):
            checkpoint.save(path, part)
        moments = [len(part["learner"]["optimizer"]["state"][0]["exp_avg"]) for part in parts]
        assert moments == {1: [7], 2: [4, 3], 3: [3, 3, 1], 4: [2, 2, 2, 1]}[count]
    assert_same(parts[0], state_of(taught))


def gone_on(place: Rank, paths: list[Path], out: Path, weights: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """In shards from what others have saved: the whole of what was taken, and the weights after an increment more."""
    learner = sharded(place)
    state = SavedState(paths, cut=True).load(learner)
    learner.adopt(weights)
    learner.load_state_dict(state["learner"])
    moments = [learner.optimizer.state[weight]["exp_avg"] for weight in learner.context.parameters]
    taken = [whole(value).clone() for value in moments]
    checkpoint.save(out / f"shard-{place.shard}", state_of(learner))
    learner.learn(rows(seed=2))
    return taken, held(learner)


def test_shards_go_on_from_the_state_of_one_process_and_it_from_theirs(
    taught: Learner, two_shards: TwoShards, tmp_path: Path
) -> None:
    state, weights = state_of(taught), held(taught)
    checkpoint.save(tmp_path / "whole", state)
    (taken, one), (_, other) = two_shards.run(gone_on, [tmp_path / "whole"], tmp_path, weights)
    moments = [value["exp_avg"] for value in state["learner"]["optimizer"]["state"].values()]
    assert all(value.equal(moment) for value, moment in zip(taken, moments, strict=True))

    again = cut([tmp_path / "shard-0", tmp_path / "shard-1"], (0, 1))
    assert_same(again["learner"]["optimizer"], state["learner"]["optimizer"])
    assert_same(again["learner"]["strategies"], state["learner"]["strategies"])
    assert_same(again["exchanged"], state["exchanged"])

    taught.learn(rows(seed=2))
    assert gap(one, other) == 0
    assert gap(one, held(taught)) < 1e-6


def test_what_is_cut_along_no_weight_is_refused_by_its_name(taught: Learner, tmp_path: Path) -> None:
    paths = [tmp_path / "0", tmp_path / "1"]
    checkpoint.save(tmp_path / "whole", state_of(taught))
    for shard, path in enumerate(paths):
        part = cut([tmp_path / "whole"], (shard, 2))
        part["learner"]["strategies"]["2.memory.targets"] += shard
        checkpoint.save(path, part)
    told = r"1: expected the same learner/strategies/2.memory.targets in the states of all shards, .*shards = 2, as"
    with pytest.raises(CheckpointError, match=told):
        cut(paths, (0, 1))


# -- whole runs ----------------------------------------------------------------------------------------------------


def job_of(small_job: Callable[..., Job], replicas: int, shards: int, *settings: str) -> Job:
    adam, outer = "learner.optimizer={name='adam', lr=0.01}", "outer={name='nesterov', lr=0.7, momentum=0.9}"
    return small_job(
        f"cluster.replicas={replicas}",
        f"cluster.shards={shards}",
        adam,
        outer,
        "model.dropout=0.1",
        *settings,
        strategy=[{"name": "replay", "capacity": 60}, {"name": "ewc", "strength": 10.0}],
    )


def farthest(out: Path, other: Mapping[str, Tensor]) -> float:
    return gap(RunDirectory.open(out).load()[0], other)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.chaos
def test_a_run_goes_on_with_another_number_of_shards(small_job: Callable[..., Job], tmp_path: Path) -> None:
    run(job_of(small_job, 1, 2), tmp_path / "run", increments=2)
    run(job_of(small_job, 1, 3), tmp_path / "run")
    assert rows_learned(tmp_path / "run") == list(range(470))
    told = [event["what"] for event in RunDirectory.open(tmp_path / "run").table("events").to_pylist()]
    assert told == ["from 2 to 3 shards of a replica"]
    assert farthest(tmp_path / "run", learned_locally(job_of(small_job, 1, 1), tmp_path).weights) < 1e-5


@pytest.mark.chaos
@pytest.mark.usefixtures("ray_session")
def test_and_with_another_number_of_replicas_at_the_same_time(small_job: Callable[..., Job], tmp_path: Path) -> None:
    for out, shards in (("shards", [2, 1, 2]), ("none", [1, 1, 1])):
        run(job_of(small_job, 1, shards[0]), tmp_path / out, increments=2)
        run(job_of(small_job, 3, shards[1]), tmp_path / out, increments=1)
        run(job_of(small_job, 2, shards[2]), tmp_path / out)
        assert rows_learned(tmp_path / out) == list(range(470))
    assert farthest(tmp_path / "shards", RunDirectory.open(tmp_path / "none").load()[0]) < 1e-5
