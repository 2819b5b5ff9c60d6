"""The learner: seeded, resumable between any two steps, tidy, and clear about what it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch, Steps, cat
from incr_core.errors import ArgumentError, CheckpointError
from incr_core.learner import Learner, OptimizerFactory
from incr_core.objectives import Multiclass
from incr_core.storage import checkpoint, packing
from incr_core.strategies import EWC, Context, Replay, Strategy

MOMENTUM: OptimizerFactory = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
ADAM: OptimizerFactory = partial(torch.optim.Adam, lr=0.01)


def increment(day: int, rows: int = 26) -> Batch:
    generator = torch.Generator().manual_seed(day)
    inputs = torch.randn(rows, 4, generator=generator)
    return Batch(inputs, inputs.argmax(1) % 3, row_ids=torch.arange(rows) + rows * day)


def make(*strategies: Strategy, optimizer: OptimizerFactory = MOMENTUM, seed: int = 0, **rest: Any) -> Learner:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    rest = {"batch_size": 4, "accumulate": 2, "epochs": 2, "clip": 1.0, "seed": 7} | rest
    return Learner(model, Multiclass(3), optimizer, strategies, **rest)


def assert_same(found: Learner, expected: Learner) -> None:
    mine, theirs = found.weights(), expected.weights()
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(mine[name], value), name
    (mine, rest), (theirs, expected_rest) = (packing.pack(learner.state_dict()) for learner in (found, expected))
    assert rest == expected_rest
    for name, value in theirs.items():
        assert torch.equal(mine[name], value), name


STRATEGIES: dict[str, Callable[[], list[Strategy]]] = {
    "none": list,
    "replay": lambda: [Replay(capacity=30)],
    "balanced": lambda: [Replay(capacity=30, memory="balanced")],
    "ewc": lambda: [EWC(strength=20.0, samples=10)],
    "composed": lambda: [Replay(capacity=30, ratio=0.5), EWC(strength=20.0)],
}


@pytest.mark.parametrize("taken", [0, 3, None])
@pytest.mark.parametrize("optimizer", [MOMENTUM, ADAM], ids=["momentum", "adam"])
@pytest.mark.parametrize("strategies", STRATEGIES)
def test_resume_equals_uninterrupted(
    strategies: str, optimizer: OptimizerFactory, taken: int | None, tmp_path: Path
) -> None:
    whole = make(*STRATEGIES[strategies](), optimizer=optimizer)
    for day in range(3):
        whole.learn(increment(day))

    first = make(*STRATEGIES[strategies](), optimizer=optimizer)
    first.learn(increment(0))
    first.begin(increment(1), increment=1)
    first.advance(taken)
    if taken is None:
        first.end(increment(1))
    checkpoint.save(tmp_path / "state", {"weights": first.weights(), "learner": first.state_dict()})

    state, _ = checkpoint.load(tmp_path / "state")
    second = make(*STRATEGIES[strategies](), optimizer=optimizer, seed=1)
    second.adopt(state["weights"])
    second.load_state_dict(state["learner"])
    assert_same(second, first)  # what was loaded can be saved again, before it is begun
    for day in (1, 2)[taken is None :]:
        second.begin(increment(day), increment=day)
        second.advance()
        second.end(increment(day))
    assert_same(second, whole)


def test_a_used_learner_returns_to_what_was_saved() -> None:
    learner, expected = make(Replay(capacity=9), seed=3), make(Replay(capacity=9), seed=3)
    for other in (learner, expected):
        other.learn(increment(0))
    tensors, rest = packing.pack({"weights": learner.weights(), "learner": learner.state_dict()})
    learner.begin(increment(1))
    learner.advance(2)
    state = packing.unpack(tensors, rest)
    for _ in range(2):  # and what was loaded stays as it was, so it can be loaded again
        learner.adopt(state["weights"])
        learner.load_state_dict(state["learner"])
        learner.learn(increment(1))
    expected.learn(increment(1))
    assert_same(learner, expected)


def test_a_used_learner_returns_to_a_state_from_before_any_row() -> None:
    learner = make(Replay(capacity=9), EWC())
    tensors, rest = packing.pack({"weights": learner.weights(), "learner": learner.state_dict()})
    learner.learn(increment(0))
    state = packing.unpack(tensors, rest)
    learner.adopt(state["weights"])
    learner.load_state_dict(state["learner"])
    assert_same(learner, make(Replay(capacity=9), EWC()))


def test_an_unfinished_increment_gives_way_to_another() -> None:
    first = make()
    first.begin(increment(0), increment=0)
    first.advance(2)
    second = make()
    second.load_state_dict(first.state_dict())
    second.begin(increment(1), increment=1)
    assert second.advance().num_rows == 52
    assert second.context.increment == 1


def test_rounds_of_one_increment() -> None:
    learner = make(epochs=1)
    learner.begin(increment(0), increment=0)
    assert learner.advance().num_rows == 26
    learner.again(increment(0))
    assert learner.advance().num_rows == 26
    assert (learner.context.increment, learner.context.step) == (0, 8)


def test_the_order_of_rows_is_seeded_and_each_pass_has_its_own() -> None:
    def orders(seed: int) -> list[list[int]]:
        steps = Steps(batch_size=4, accumulate=2, seed=seed)
        steps.begin(increment(0), passes=2)
        batches = [batch for step in steps.take() for batch in step]
        rows = cat(batches).row_ids
        assert rows is not None
        return rows.reshape(2, -1).tolist()

    first, second = orders(0)
    assert sorted(first) == sorted(second) == list(range(26))
    assert first != second
    assert orders(0) == [first, second] != orders(1)


class Blurring(nn.Linear):
    """A layer of one's own that draws, of which nobody can tell."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs + 0.1 * torch.randn_like(inputs))


def blurring_hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (inputs[0] + 0.1 * torch.randn_like(inputs[0]),)


@pytest.mark.parametrize("draws", ["dropout", "a layer of one's own", "a hook", "a forward put in place", "nothing"])
@pytest.mark.parametrize("strategies", [lambda: [Replay(), EWC()], list])
def test_the_global_random_state_is_left_alone(draws: str, strategies: Callable[[], list[Strategy]]) -> None:
    layers: list[nn.Module] = [Blurring(4, 8) if draws == "a layer of one's own" else nn.Linear(4, 8)]
    layers += [nn.Dropout(0.5 if draws == "dropout" else 0.0)] * (draws != "nothing")
    if draws == "a hook":
        layers = [nn.Linear(4, 8)]
        layers[0].register_forward_pre_hook(blurring_hook)
    if draws == "a forward put in place":
        linear = nn.Linear(4, 8)
        vars(linear)["forward"] = lambda inputs: torch.randn(()) * nn.Linear.forward(linear, inputs)
        layers = [linear]
    learner = Learner(nn.Sequential(*layers, nn.Linear(8, 3)), Multiclass(3), MOMENTUM, strategies())
    before = torch.get_rng_state()
    learner.learn(increment(0))
    learner.predict(increment(1).inputs)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_others_draw_does_not_matter() -> None:
    alone, disturbed = make(), make()
    alone.learn(increment(0))
    disturbed.begin(increment(0))
    for _ in range(3):
        disturbed.advance(2)
        torch.rand(5)
    disturbed.advance()
    disturbed.end(increment(0))
    assert_same(disturbed, alone)


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 5, 8, 9, 12, 13, 25, 26])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("smallest", [1, 2])
def test_steps_are_counted_before_they_are_taken(rows: int, accumulate: int, smallest: int) -> None:
    steps = Steps(batch_size=4, accumulate=accumulate, smallest=smallest)
    steps.begin(increment(0, rows), passes=2)
    taken = list(steps.take())
    assert len(taken) == steps.count(rows, 2)
    assert steps.left == 0
    assert sum(len(batch) for step in taken for batch in step) == 2 * rows
    assert all(len(batch) >= min(smallest, rows) for step in taken for batch in step)


def test_with_batch_norm_a_last_row_joins_the_batch_before_it() -> None:
    learner = make(accumulate=1, epochs=1, shuffle=False)
    assert learner.steps_in(9) == 2
    assert learner.learn(increment(0, rows=9)).num_rows == 9
    assert learner.context.step == 2


def test_batch_norm_and_one_row_alone() -> None:
    with pytest.raises(
        ArgumentError, match=r"^learner: the model has BatchNorm, which needs at least 2 rows .* LayerNorm"
    ):
        make().learn(increment(0, rows=1))
    make(Replay()).learn(increment(0, rows=2))
    learner = make(Replay())
    learner.learn(increment(0))
    learner.learn(increment(1, rows=1))  # remembered rows keep it company


def test_an_increment_without_rows() -> None:
    learner = make(Replay(), EWC())
    before = {name: value.clone() for name, value in learner.weights().items()}
    assert learner.learn(increment(0, rows=0)).num_rows == 0
    for name, value in learner.weights().items():
        assert torch.equal(value, before[name])
    assert learner.predict(torch.empty(0, 4)).shape == (0, 3)


def test_predictions_do_not_depend_on_how_rows_are_cut() -> None:
    learner, inputs = make(), torch.randn(10, 4)
    torch.testing.assert_close(learner.predict(inputs, batch_size=3), learner.predict(inputs))


def test_terms_of_one_name_add_up() -> None:
    class Pull(Strategy):
        def loss(self, ctx: Context, batch: Batch, output: Tensor) -> dict[str, Tensor]:
            return {"pull": ctx.parameters[0].square().sum()}

    sgd = partial(torch.optim.SGD, lr=0.01)

    def learned(*strategies: Strategy) -> tuple[Learner, dict[str, float]]:
        learner = make(*strategies, optimizer=sgd, epochs=1)
        return learner, learner.learn(increment(0)).losses

    (twice, losses), (none, _) = learned(Pull(), Pull()), learned()
    before = make().weights()["model.0.weight"]
    once, single = learned(Pull())
    assert losses.keys() == {"loss", "pull"}
    assert losses["pull"] > 1.5 * single["pull"]
    assert not torch.equal(twice.weights()["model.0.weight"], once.weights()["model.0.weight"])
    assert not torch.equal(none.weights()["model.0.weight"], before)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size, accumulate and epochs must each be at least 1, got 0, 2 and 2"),
        ({"precision": "float8"}, "learner.precision: expected one of float32, bfloat16, float16, got 'float8'"),
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make(**wrong)


def test_nothing_to_learn() -> None:
    with pytest.raises(ArgumentError, match="no parameter with requires_grad"):
        Learner(nn.Linear(2, 1).requires_grad_(False), Multiclass(2), MOMENTUM)


def test_weights_of_another_model_are_refused() -> None:
    learner = make()
    anchor = dict(learner.weights())
    anchor["model.0.weight"] = torch.zeros(8, 5)
    with pytest.raises(
        CheckpointError, match=r"model.0.weight: expected a weight of shape \(8, 4\), got one of .*\(8, 5\)"
    ):
        learner.adopt(anchor)
    del anchor["model.0.weight"]
    with pytest.raises(CheckpointError, match=r"model.0.weight: expected a weight of shape \(8, 4\), got none"):
        learner.adopt(anchor)


def test_state_of_other_strategies_is_refused() -> None:
    with pytest.raises(CheckpointError, match="strategies: expected the state of none, got that of EWC; use the same"):
        make().load_state_dict(make(EWC()).state_dict())


def test_state_of_another_model_is_refused() -> None:
    other = Learner(nn.Linear(4, 3), Multiclass(3), MOMENTUM, [EWC()])
    with pytest.raises(
        CheckpointError, match=r"0.weight: expected the state of a weight of shape \(8, 4\), got that of none"
    ):
        make(EWC()).load_state_dict(other.state_dict())


def test_bfloat16_learns_float32_weights() -> None:
    learner = make(Replay(), EWC(), precision="bfloat16")
    update = learner.learn(increment(0))
    assert all(value.dtype == torch.float32 for value in update.weights.values() if value.is_floating_point())
    assert all(value.isfinite().all() for value in update.weights.values())
