"""Memories whose rows are shared with those who join, and left to those who stay: row by row."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from incr_core.memories import Memory, memory_named

KINDS = ["reservoir", "balanced", "window", "herding"]


def filled(kind: str, capacity: int, start: int, rows: int, ttl: int | None = None) -> Memory:
    memory, draw = memory_named("memory", kind, capacity, ttl), torch.Generator().manual_seed(start)
    ids = torch.arange(start, start + rows)
    inputs = torch.randn(rows, 3, generator=draw)
    for first in range(0, rows, 7):
        step = slice(first, first + 7)
        memory.insert({"inputs": inputs[step], "targets": (ids[step] % 3).float(), "rows": ids[step]}, draw)
    return memory


def held(memory: Memory) -> list[int]:
    return memory.rows_held()["rows"].tolist() if memory.size else []


@pytest.mark.parametrize("kind", KINDS)
def test_a_deal_puts_every_row_in_one_part(kind: str) -> None:
    memory = filled(kind, 60, 0, 200)
    parts = [deepcopy(memory) for _ in range(3)]
    for number, part in enumerate(parts):
        part.deal([number], of=3)
    assert sorted(row for part in parts for row in held(part)) == sorted(held(memory))
    assert sum(part.seen for part in parts) == memory.seen
    assert max(part.size for part in parts) - min(part.size for part in parts) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_room_is_all_taken_in(kind: str) -> None:
    one, other = filled(kind, 100, 0, 40), filled(kind, 100, 1000, 30)
    rows = held(one) + held(other)
    one.join(other)
    assert sorted(held(one)) == sorted(rows)
    assert one.seen == 70
    for name, column in one.rows_held().items():
        if name == "targets":
            assert column.tolist() == [row % 3 for row in held(one)]
    empty = memory_named("memory", kind, 100)
    empty.join(other)
    assert (sorted(held(empty)), empty.seen) == (sorted(held(other)), 30)
    other.join(memory_named("memory", kind, 100))
    assert sorted(held(empty)) == sorted(held(other))


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_room_for_all_keeps_some_of_both_and_goes_on(kind: str) -> None:
    one, other = filled(kind, 60, 0, 300), filled(kind, 60, 1000, 300)
    rows = held(one) + held(other)
    one.join(other)
    theirs = sum(row >= 1000 for row in held(one))
    assert one.size == (57 if kind == "herding" else 60)  # herding's three means take a slot each
    assert 20 <= theirs <= 40
    assert set(held(one)) <= set(rows)
    one.insert({"inputs": torch.randn(9, 3), "targets": torch.zeros(9), "rows": torch.arange(9)}, torch.Generator())
    assert one.seen == 609


def test_balanced_memories_keep_the_smallest_keys_of_both() -> None:
    one, other = filled("balanced", 30, 0, 300), filled("balanced", 30, 1000, 300)
    keys = torch.cat([one.rows_held()["key"], other.rows_held()["key"]])
    classes = torch.cat([one.rows_held()["targets"], other.rows_held()["targets"]])
    one.join(other)
    for label in range(3):
        kept = one.rows_held()["key"][one.rows_held()["targets"] == label].sort().values
        assert kept.tolist() == keys[classes == label].sort().values[: len(kept)].tolist()


def test_a_window_keeps_the_last_rows_of_both() -> None:
    one, other = filled("window", 40, 0, 300), filled("window", 40, 1000, 300)
    one.join(other)
    assert sorted(held(one)) == [*range(280, 300), *range(1280, 1300)]


def test_the_means_of_herding_become_those_of_all_rows() -> None:
    one, other, both = (filled("herding", 20, *part) for part in ((0, 40), (1000, 80), (0, 40)))
    draw = torch.Generator().manual_seed(1000)
    ids, inputs = torch.arange(1000, 1080), torch.randn(80, 3, generator=draw)
    both.insert({"inputs": inputs, "targets": (ids % 3).float(), "rows": ids}, draw)
    one.join(other)
    mine, theirs = one.get_extra_state(), both.get_extra_state()
    order, expected = mine["mean_targets"].argsort(), theirs["mean_targets"].argsort()
    assert torch.allclose(mine["mean_inputs"][order], theirs["mean_inputs"][expected], atol=1e-6)
    assert torch.equal(mine["counts"][order], theirs["counts"][expected])


@pytest.mark.parametrize("kind", ["reservoir", "balanced"])
def test_rows_keep_their_age(kind: str) -> None:
    one, other = filled(kind, 50, 0, 90, ttl=100), filled(kind, 50, 1000, 90, ttl=100)
    ages = {
        row: 90 - born for m in (one, other) for row, born in zip(held(m), m.rows_held()["born"].tolist(), strict=True)
    }
    other.deal([1], of=2)
    one.join(other)
    assert one.seen == 135
    now = dict(zip(held(one), (one.seen - one.rows_held()["born"]).tolist(), strict=True))
    assert now == {row: ages[row] for row in now}
