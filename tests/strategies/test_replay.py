"""Replay: which rows a step learns, and which it remembers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch, cat
from incr_core.errors import ArgumentError, StrategyError
from incr_core.learner import Learner
from incr_core.memories import Balanced
from incr_core.objectives import Multiclass
from incr_core.strategies import Context, Replay, Strategy


class Spy(Strategy):
    """Writes down the row ids of each batch as augmented, and of each step's new rows."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[list[int]] = []
        self.fresh: list[list[int]] = []

    def loss(self, ctx: Context, batch: Batch, output: Tensor) -> dict[str, Tensor]:
        assert batch.row_ids is not None
        assert len(output) == len(batch)
        self.mixed.append(batch.row_ids.tolist())
        return {}

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        assert batch.row_ids is not None
        assert len(output) == len(batch)
        self.fresh.append(batch.row_ids.tolist())


def increment(day: int, rows: int = 10) -> Batch:
    ids = torch.arange(rows) + day * rows
    return Batch(torch.randn(rows, 4), ids % 3, row_ids=ids)


def learner(*strategies: Strategy, accumulate: int = 1) -> Learner:
    sgd = partial(torch.optim.SGD, lr=0.01)
    return Learner(nn.Linear(4, 3), Multiclass(3), sgd, strategies, batch_size=4, accumulate=accumulate, shuffle=False)


def test_new_rows_come_first_and_remembered_ones_behind() -> None:
    spy = Spy()
    chain = learner(Replay(capacity=100), spy)
    chain.learn(increment(0))
    assert spy.fresh == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [batch[: len(new)] for batch, new in zip(spy.mixed, spy.fresh, strict=True)] == spy.fresh
    assert [len(batch) for batch in spy.mixed] == [4, 8, 4]  # nothing is remembered in the first step
    for step in (1, 2):
        assert set(spy.mixed[step][len(spy.fresh[step]) :]) <= set(range(4 * step))


def test_a_step_of_several_batches_remembers_them_together() -> None:
    spy, replay = Spy(), Replay(capacity=100)
    learner(replay, spy, accumulate=2).learn(increment(0))
    assert spy.fresh == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9]]
    assert [len(batch) for batch in spy.mixed] == [4, 4, 4]
    assert replay.memory.rows_held()["rows"].tolist() == list(range(10))


@pytest.mark.parametrize(("ratio", "sizes"), [(0.5, [6, 6, 3]), (2.0, [12, 12, 6]), (0.01, [5, 5, 3])])
def test_the_ratio(ratio: float, sizes: list[int]) -> None:
    spy = Spy()
    chain = learner(Replay(ratio=ratio), spy)
    for day in range(2):
        chain.learn(increment(day))
    assert [len(batch) for batch in spy.mixed[3:]] == sizes


def test_the_loss_is_the_mean_over_new_and_remembered_rows() -> None:
    chain = learner(Replay(capacity=1, ratio=2.0))
    old, new = increment(0).slice(0, 1), increment(1).slice(0, 3)
    chain.learn(old)
    plain = learner()
    plain.adopt(chain.weights())
    chain.learn(new)
    both = cat([new, old])
    assert isinstance(both.inputs, Tensor)
    # The one row remembered is drawn 6 times: as if it weighed 6.
    plain.objective(plain.model(both.inputs), both.targets, torch.tensor([1.0, 1.0, 1.0, 6.0])).backward()
    plain.optimizer.step()
    for name, value in chain.weights().items():
        torch.testing.assert_close(value, plain.weights()[name])


def test_weights_of_rows_are_remembered() -> None:
    replay = Replay(capacity=10)
    chain = learner(replay)
    rows = increment(0)
    rows.weights = torch.arange(10.0)
    chain.learn(rows)
    held = replay.memory.rows_held()
    assert torch.equal(held["weights"], held["rows"].float())


def test_nothing_of_it_is_shared() -> None:
    chain = learner(Replay())
    chain.learn(increment(0))
    assert chain.shared_state() == ({}, {})


def test_without_a_ratio_nothing_is_remembered() -> None:
    replay = Replay(ratio=0.0)
    learner(replay).learn(increment(0))
    assert (replay.memory.seen, replay.memory.bytes()) == (0, 0)


def test_arguments() -> None:
    assert isinstance(Replay(memory="balanced").memory, Balanced)
    with pytest.raises(StrategyError, match=r"replay.ratio: expected 0 or more, got -1"):
        Replay(ratio=-1.0)
    with pytest.raises(ArgumentError, match=r"replay.memory: expected"):
        Replay(memory="all")
    with pytest.raises(ArgumentError, match=r"capacity: expected at least 1 row, got 0"):
        Replay(capacity=0)
