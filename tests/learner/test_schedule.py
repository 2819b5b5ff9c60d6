"""Schedules and groups: closed forms, resume to the same bits, and what is said about wrong ones."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from incr_core.batch import Batch
from incr_core.engines import LocalEngine
from incr_core.errors import ArgumentError, JobError, StrategyError
from incr_core.job import Job
from incr_core.learner import SCHEDULES, Learner, Schedule
from incr_core.loop import Loop
from incr_core.objectives import Binary, Multiclass
from incr_core.registry import RunDirectory
from incr_core.rounds import Orders
from incr_core.runs import run
from incr_core.storage.packing import pack, unpack
from incr_core.strategies import EWC, MIR, Context, ElasticNet, Strategy

ARGUMENTS: dict[str, dict[str, Any]] = {
    "step": {"step_size": 3},
    "multistep": {"milestones": [2, 7, 11]},
    "constant": {},
    "linear": {"total_iters": 9},
    "exponential": {"gamma": 0.9},
    "polynomial": {"total_iters": 30},
    "cosineannealing": {"T_max": 12},
    "cosine": {"T_max": 12},
    "cosineannealingwarmrestarts": {"T_0": 5},
    "warm_restarts": {"T_0": 5, "T_mult": 2},
    "cyclic": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4},
    "onecycle": {"max_lr": 0.1, "total_steps": 60},
}


class Watch(Strategy):
    """Notes the learning rate of every step."""

    def __init__(self) -> None:
        super().__init__()
        self._rates: list[float] = []

    def after_backward(self, ctx: Context) -> None:
        self._rates.append(ctx.optimizer.param_groups[0]["lr"])


def three(rows: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, 4, generator=generator)
    return Batch(inputs, inputs[:, :3].argmax(1))


def learner(schedule: Schedule | None = None, *strategies: Strategy, **arguments: Any) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    return Learner(model, Multiclass(3), sgd, strategies, batch_size=8, schedule=schedule, **arguments)


def test_the_rate_of_every_step_is_the_cosine() -> None:
    watch = Watch()
    mine = learner(Schedule(partial(lr_scheduler.CosineAnnealingLR, T_max=12)), watch)
    for day in range(3):
        mine.learn(three(32, day))
    expected = [0.05 * (1 + math.cos(math.pi * step / 12)) for step in range(12)]
    assert watch._rates == pytest.approx(expected)


def test_a_schedule_of_increments_steps_when_one_ends() -> None:
    watch = Watch()
    mine = learner(Schedule(partial(lr_scheduler.ExponentialLR, gamma=0.5), each="increment"), watch)
    assert mine.consolidates  # or an engine would not end the increment
    for day in range(3):
        mine.learn(three(16, day))
    assert watch._rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])


@pytest.mark.parametrize("name", ["cosine", "onecycle", "exponential", "multistep"])
def test_a_warm_restart_begins_again_with_the_rates_of_the_first_step(name: str) -> None:
    watch = Watch()
    schedule = Schedule(partial(SCHEDULES[name], **ARGUMENTS[name]))
    mine = learner(schedule, watch, groups=[("0.*", {"lr": 0.02})])
    first = [dict(group, params=None) for group in mine.optimizer.param_groups]
    for day in range(2):
        mine.learn(three(48, day))
        schedule.restart()
        assert [dict(group, params=None) for group in mine.optimizer.param_groups] == first
    assert watch._rates[6:] == watch._rates[:6]
    assert len(set(watch._rates)) > 1


def test_all_schedules_have_a_test() -> None:
    assert set(SCHEDULES) == set(ARGUMENTS)


@pytest.mark.parametrize("each", ["step", "increment"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_stopped_in_an_increment_it_goes_on_to_the_same_bits(name: str, each: str) -> None:
    def make() -> Learner:
        return learner(Schedule(partial(SCHEDULES[name], **ARGUMENTS[name]), each))

    whole, stopped, fresh = make(), make(), make()
    for day in range(3):
        whole.learn(three(40, day))
    stopped.learn(three(40, 0))
    stopped.begin(three(40, 1))
    stopped.advance(2)
    tensors, rest = pack({"weights": stopped.weights(), "learner": stopped.state_dict()})
    state = unpack(tensors, json.loads(json.dumps(rest)))
    fresh.adopt(state["weights"])
    fresh.load_state_dict(state["learner"])
    fresh.learn(three(40, 1))
    fresh.learn(three(40, 2))
    for key, value in whole.weights().items():
        assert torch.equal(fresh.weights()[key], value), key


def test_groups_have_their_own_rate_and_decay() -> None:
    """With a gradient of zero a step of SGD is w <- w (1 - lr * decay)."""
    groups = [("2.*", {"lr": 0.5, "weight_decay": 0.2}), ("*.bias", {"lr": 0.0})]
    mine = learner(None, groups=groups)
    before = {name: value.clone() for name, value in mine.model.named_parameters()}
    mine.learn(Batch(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64), torch.zeros(8)))
    for name, value in mine.model.named_parameters():
        factor = 1 - 0.5 * 0.2 if name.startswith("2.") else 1.0
        torch.testing.assert_close(value, before[name] * factor)
    assert [len(group["params"]) for group in mine.optimizer.param_groups] == [1, 2, 1]


def test_groups_survive_a_checkpoint_and_a_schedule_moves_them_all() -> None:
    def make() -> Learner:
        schedule = Schedule(partial(lr_scheduler.ExponentialLR, gamma=0.5))
        return learner(schedule, groups=[("0.*", {"lr": 0.02})])

    one, other = make(), make()
    one.learn(three(16))
    assert [group["lr"] for group in one.optimizer.param_groups] == pytest.approx([0.1 / 4, 0.02 / 4])
    other.adopt(one.weights())
    other.load_state_dict(one.state_dict())
    one.learn(three(16, 1))
    other.learn(three(16, 1))
    assert all(torch.equal(value, other.weights()[name]) for name, value in one.weights().items())


@pytest.mark.parametrize("make", [lambda: EWC(5.0), lambda: ElasticNet(0.1, 0.1), lambda: MIR(50)])
def test_strategies_use_each_weights_own_rate(make: Any) -> None:
    """Groups that say what the optimiser says anyway change nothing; others do."""

    def learned(groups: Any) -> dict[str, Tensor]:
        mine = learner(None, make(), groups=groups)
        for day in range(2):
            mine.learn(three(32, day))
        return mine.weights()

    plain = learned([])
    same = learned([("0.*", {"lr": 0.1})])
    for name, value in learned([("0.*", {"lr": 0.01})]).items():
        torch.testing.assert_close(same[name], plain[name], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(value, plain[name], rtol=1e-3)


def test_a_pattern_that_matches_nothing_is_told() -> None:
    with pytest.raises(
        ArgumentError, match=r"learner.groups: expected 'head.*' to match some weight .* none of 0.weight, 0"
    ):
        learner(None, groups=[("head.*", {"lr": 0.1})])
    with pytest.raises(ArgumentError, match=r"learner.schedule.each: expected one of increment, step, got 'day'"):
        Schedule(lambda optimizer: lr_scheduler.StepLR(optimizer, 1), each="day")


JOB = {
    "learner.schedule={name='onecycle', max_lr=0.05, total_steps=400}",
    "learner.optimizer={name='adamw', weight_decay=0.1}",
    "learner.groups=[{match='layers.0.*', lr=0.001, weight_decay=0.0}]",
}


def job(table: Path, *settings: str) -> Job:
    document = {
        "stream": {"path": str(table), "every": 400},
        "features": {"label": "tall", "numeric": ["height", "weight"], "classes": [0, 1]},
        "model": {"hidden": [8]},
        "learner": {"objective": "binary"},
        "publish": {"every": 2},
    }
    return Job.from_document(document, settings)


@pytest.mark.slow
def test_a_job_with_a_schedule_killed_goes_on_to_the_same_bits(table: Path, tmp_path: Path) -> None:
    named = job(table, *JOB)
    whole = run(named, tmp_path / "whole").summary
    assert whole.model_sha256 != run(job(table), tmp_path / "without").summary.model_sha256
    with RunDirectory.create(tmp_path / "parts", named.toml(), f"local:{named.fingerprint()}") as directory:
        loop = Loop(named, LocalEngine(named, tmp_path / "parts"), directory)
        loop.on_progress = lambda _: loop._stop.set() if loop.totals.increments >= 3 else None
        loop.run()
        loop.engine.close()
    assert run(named, tmp_path / "parts").summary.model_sha256 == whole.model_sha256


def test_a_drift_may_restart_it(table: Path) -> None:
    drift = "drift=[{watch='error', action='restart_schedule'}]"
    with pytest.raises(JobError, match=r"drift.action: expected learner.schedule with \"restart_schedule\", got none"):
        job(table, drift)
    named = job(table, drift, "learner.schedule={name='exponential', gamma=0.5}")
    participant = named.participant()
    participant.receive()
    participant.begin()
    participant.advance(3)
    (group,) = participant.learner.optimizer.param_groups
    assert group["lr"] == pytest.approx(0.003 / 8)
    participant.follow(Orders(restart=True))
    assert group["lr"] == 0.003
    participant.close()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learner.schedule=cosin", "learner.schedule.name: expected a schedule, got 'cosin'; did you mean 'cosine'"),
        ("learner.schedule=cosine", "learner.schedule: .*T_max.*; it takes T_max, eta_min"),
        ("learner.schedule={name='step', step_size=2, ech=1}", "learner.schedule: .*ech.*; it takes step_size, gamma"),
        (
            "learner.schedule={name='step', step_size=2, each='day'}",
            "learner.schedule.each: expected one of increment,",
        ),
        (
            "learner.groups=[{match='*', lrr=1}]",
            "learner.groups '\\*': expected an argument of the optimizer, got 'lrr'; did you",
        ),
        ("learner.groups=[{lr=1}]", "learner.groups.0.match: missing; the job needs it"),
        ("learner.schedule=reducelronplateau", "learner.schedule.name: expected a schedule, got 'reducelronplateau'"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_told(table: Path, setting: str, message: str) -> None:
    with pytest.raises((JobError, StrategyError), match=message):
        job(table, setting).participant()


def test_an_optimizer_that_does_not_take_such_weights_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"learner.optimizer: Muon only supports 2D .*; choose another optimizer, or"
    ):
        Learner(nn.Linear(2, 1), Binary(), torch.optim.Muon)
