"""Rows that together are like all rows of their class."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from incr_core.errors import ArgumentError
from incr_core.memories import MEMORIES, Balanced, Memory, OnlineHerding
from incr_core.memories._columns import Columns


def drawn(count: int, classes: int = 2, seed: int = 0, width: int = 5) -> Columns:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (count,), generator=generator)
    inputs = torch.randn(count, width, generator=generator) * (1 + targets[:, None]) + targets[:, None]
    return {"inputs": inputs, "targets": targets, "rows": torch.arange(count)}


def shown(memory: Memory, columns: Columns, batch: int = 10) -> Memory:
    generator = torch.Generator().manual_seed(0)
    for start in range(0, len(columns["targets"]), batch):
        memory.insert({name: column[start:][:batch] for name, column in columns.items()}, generator)
    return memory


def miss(memory: Memory, columns: Columns, label: int) -> float:
    """How far the mean of the rows held of a class is from the mean of all its rows."""
    held, mine = memory.rows_held(), columns["inputs"][columns["targets"] == label]
    return float((held["inputs"][held["targets"] == label].mean(0) - mine.mean(0)).norm())


def test_rows_held_have_the_mean_of_their_class_as_rows_drawn_at_random_do_not() -> None:
    columns = drawn(3000, classes=3)
    herded, random = shown(OnlineHerding(33), columns), shown(Balanced(30), columns)
    assert herded.rows_held()["targets"].bincount().tolist() == [10, 10, 10]
    for label in range(3):
        assert miss(herded, columns, label) < 0.2 * miss(random, columns, label)


def test_of_all_exchanges_it_makes_the_best_for_each_class() -> None:
    columns, memory = drawn(300, seed=1), OnlineHerding(12)
    exchanges = 0
    for start in range(0, 300, 10):
        held = {name: column.clone() for name, column in memory.rows_held().items()}
        batch = {name: column[start:][:10] for name, column in columns.items()}
        memory.insert(batch, torch.Generator())
        if start < 20:
            continue
        for label in range(2):
            mine, fresh = held["targets"] == label, batch["targets"] == label
            every = {name: column[: start + 10] for name, column in columns.items()}
            mean = every["inputs"][every["targets"] == label].mean(0)
            expected = best(held["inputs"][mine], batch["inputs"][fresh], mean)
            now = memory.rows_held()["inputs"][memory.rows_held()["targets"] == label]
            torch.testing.assert_close(now[now[:, 0].argsort()], expected[expected[:, 0].argsort()])
            exchanges += not torch.equal(now, held["inputs"][mine])
    assert exchanges > 5


def best(held: Tensor, fresh: Tensor, mean: Tensor) -> Tensor:
    """By trying all: the rows after the exchange that brings their mean closest, or as they are."""
    found = [held]
    for x, place in product(fresh, range(len(held))):
        exchanged = held.clone()
        exchanged[place] = x
        found.append(exchanged)
    return min(found, key=lambda rows: float((rows.mean(0) - mean).norm()))


def test_when_a_class_comes_the_others_give_way_and_keep_their_mean() -> None:
    columns = drawn(600)
    memory = shown(OnlineHerding(42), columns)
    late = {name: column.clone() for name, column in drawn(200, seed=2).items()}
    late["targets"] = torch.full((200,), 7)
    shown(memory, late)
    assert memory.rows_held()["targets"].bincount().tolist() == [13, 13, 0, 0, 0, 0, 0, 13]
    random = Balanced(39)
    shown(shown(random, columns), late)
    for label in range(2):
        assert miss(memory, columns, label) < 0.5 * miss(random, columns, label)


def test_means_are_those_of_all_rows_and_move_with_the_memory() -> None:
    columns = drawn(400)
    memory = shown(OnlineHerding(20), columns)
    memory.enlarge(2.0)
    means = memory.get_extra_state()
    for label, mean, count in zip(means["mean_targets"], means["mean_inputs"], means["counts"], strict=True):
        mine = columns["inputs"][columns["targets"] == label]
        torch.testing.assert_close(mean, mine.mean(0))
        assert count == len(mine)
    shown(memory, columns)
    assert memory.size == 38


def test_a_row_erased_is_taken_out_of_the_mean_too() -> None:
    columns = drawn(400)
    memory = shown(OnlineHerding(20), columns)
    gone = memory.rows_held()["rows"][::3].clone()
    assert memory.drop(gone) == len(gone)
    assert not torch.isin(memory.rows_held()["rows"], gone).any()
    left = ~torch.isin(columns["rows"], gone)
    means = memory.get_extra_state()
    for label, mean in zip(means["mean_targets"], means["mean_inputs"], strict=True):
        torch.testing.assert_close(mean, columns["inputs"][left & (columns["targets"] == label)].mean(0))


def test_a_memory_cleared_is_a_new_one() -> None:
    columns, again = drawn(400), OnlineHerding(20)
    shown(again, columns).clear()
    shown(again, drawn(300, seed=5))
    for name, column in shown(OnlineHerding(20), drawn(300, seed=5)).rows_held().items():
        assert torch.equal(column, again.rows_held()[name])


def test_what_it_cannot_do_is_told() -> None:
    with pytest.raises(ArgumentError, match=r"memory.capacity: expected more than the 5 classes seen"):
        shown(OnlineHerding(5), drawn(100, classes=5))
    with pytest.raises(ArgumentError, match=r"memory.ttl: herding follows the mean of rows of every age"):
        MEMORIES["herding"](10, 100)
    with pytest.raises(ArgumentError, match=r"one floating tensor.*use the memory 'balanced'"):
        OnlineHerding(5).insert(
            {"inputs": torch.ones(2, 1, dtype=torch.int64), "targets": torch.zeros(2)}, torch.Generator()
        )
    with pytest.raises(ArgumentError, match="expected one target a row for 'herding'"):
        OnlineHerding(5).insert({"inputs": torch.ones(2, 1), "targets": torch.zeros(2, 3)}, torch.Generator())
