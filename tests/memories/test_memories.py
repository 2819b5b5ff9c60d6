"""Memories: who stays, how many, and what forgetting leaves."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.errors import ArgumentError, CheckpointError
from incr_core.memories import Balanced, Memory, Reservoir, columns_of, to_batch
from incr_core.memories._columns import even_shares
from incr_core.memories._reservoir import AHEAD


def numbered(start: int, stop: int, classes: int = 1) -> dict[str, Tensor]:
    rows = torch.arange(start, stop)
    return {"inputs": rows.float()[:, None], "targets": rows % classes, "rows": rows}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def held(memory: Memory) -> list[int]:
    return sorted(memory.rows_held()["rows"].tolist())


def filled(memory: Memory, rows: int, batch: int, generator: torch.Generator, classes: int = 1) -> Memory:
    for start in range(0, rows, batch):
        memory.insert(numbered(start, min(start + batch, rows), classes), generator)
    return memory


def chi_square(counts: Tensor) -> float:
    """Sum of squared deviations over the expected count; its mean is about the number of cells."""
    expected = counts.double().mean()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("kind", [Reservoir, Balanced])
@pytest.mark.parametrize("batch", [3, 7, 40])
def test_every_row_stays_with_equal_chance(kind: type[Memory], batch: int) -> None:
    rows, capacity, trials, generator = 40, 8, 200, seeded(1)
    counts = torch.zeros(rows)
    for _ in range(trials):
        counts[filled(kind(capacity), rows, batch, generator).rows_held()["rows"]] += 1
    assert counts.sum() == trials * capacity
    # Each count is binomial(200, 0.2): the statistic has mean 39 * 0.8 = 31 and deviation about 7.
    assert chi_square(counts) < 31 + 4 * 7


def test_a_batch_is_inserted_as_one_by_one() -> None:
    """Algorithm R by hand, from the same draws, on slots that collide often."""
    capacity, rows = 3, 50
    memory = Reservoir(capacity)
    memory.insert(numbered(0, capacity), seeded())
    memory.insert(numbered(capacity, rows), seeded(5))
    expected = list(range(capacity))
    draws = torch.rand(rows - capacity, generator=seeded(5), dtype=torch.float64)
    for row, draw in zip(range(capacity, rows), draws.tolist(), strict=True):
        slot = int(draw * (row + 1))
        if slot < capacity:
            expected[slot] = row
    assert memory.rows_held()["rows"].tolist() == expected


def test_every_row_of_a_long_stream_stays_with_equal_chance() -> None:
    """Over more rows than have their slots drawn at once, at a capacity that few of them reach."""
    rows, trials, generator = 3 * AHEAD, 30, seeded(2)
    counts = torch.zeros(24)
    for _ in range(trials):
        counts += torch.histc(filled(Reservoir(64), rows, 500, generator).rows_held()["inputs"], 24, 0, rows)
    assert counts.sum() == trials * 64
    # 24 cells of 80 rows each: mean 23, deviation about 7.
    assert chi_square(counts) < 23 + 4 * 7


def test_how_rows_are_cut_into_batches_changes_nothing() -> None:
    one, *others = (filled(Reservoir(50), 2 * AHEAD + 100, batch, seeded(3)) for batch in (10, 3, 137, 9000))
    for other in others:
        assert torch.equal(other.rows_held()["rows"], one.rows_held()["rows"])


def test_a_memory_cleared_or_enlarged_draws_anew_who_stays() -> None:
    generator = seeded(4)
    memory = filled(Reservoir(20), 700, 7, generator)
    memory.clear()
    before = generator.get_state()
    filled(memory, 300, 7, generator)
    generator.set_state(before)
    assert held(memory) == held(filled(Reservoir(20), 300, 7, generator))
    fresh = torch.zeros(200)
    for place in range(200):
        memory = filled(Reservoir(20), 200, 10, generator)
        memory.enlarge(3.0)
        for start in range(200, 300, 10):
            memory.insert(numbered(start, start + 10), generator)
        fresh[place] = (memory.rows_held()["rows"] >= 200).sum()
    # Row s is drawn with probability 60 / (s + 1), into one of 60 slots; what it replaces may be as fresh.
    stays = sum(60 / (s + 1) * (1 - 1 / 60) ** sum(60 / (t + 1) for t in range(s + 1, 300)) for s in range(200, 300))
    assert float(fresh.mean()) == pytest.approx(stays, abs=4 * float(fresh.std()) / 200**0.5)


def test_a_batch_that_fills_the_reservoir_and_goes_on() -> None:
    memory = filled(Reservoir(10), 100, 100, seeded())
    assert (memory.size, memory.seen) == (10, 100)
    assert len(set(held(memory))) == 10


def test_columns_of_a_row_stay_together() -> None:
    for memory in (Reservoir(9), Balanced(9)):
        columns = filled(memory, 200, 13, seeded(), classes=4).rows_held()
        assert torch.equal(columns["inputs"].flatten().long(), columns["rows"])
        assert torch.equal(columns["targets"], columns["rows"] % 4)
        sample = memory.sample(100, seeded(2))
        assert torch.equal(sample["inputs"].flatten().long(), sample["rows"])
        assert set(sample["rows"].tolist()) == set(held(memory))


@pytest.mark.parametrize("kind", [Reservoir, Balanced])
@pytest.mark.parametrize("capacity", [1, 2, 5, 33])
def test_the_capacity_is_never_exceeded(kind: type[Memory], capacity: int) -> None:
    memory, generator, taken = kind(capacity), seeded(), 0
    for start in range(0, 300, 11):
        memory.insert(numbered(start, start + 11, classes=3), generator)
        taken = taken or memory.bytes()
        assert memory.size == min(capacity, start + 11)
        assert memory.bytes() == taken
    assert len(set(held(memory))) == memory.size


def test_balanced_keeps_of_each_class_the_rows_of_smallest_key() -> None:
    """What is held of a class is all it was shown below its limit; so it is a uniform sample of it."""
    memory, generator, shadow = Balanced(12), seeded(3), seeded(3)
    keys: list[Tensor] = []
    chances = torch.tensor([0.7, 0.2, 0.06, 0.04])
    targets = torch.multinomial(chances, 400, replacement=True, generator=seeded(4))
    for start in range(0, 400, 20):
        rows = torch.arange(start, start + 20)
        memory.insert({"targets": targets[rows], "rows": rows}, generator)
        keys.append(torch.rand(20, generator=shadow, dtype=torch.float64))
        seen = targets[: start + 20]
        counts = seen.bincount(minlength=4).tolist()
        kept = memory.rows_held()
        assert kept["targets"].bincount(minlength=4).tolist() == even_shares(counts, 12)
        for label, count in enumerate(kept["targets"].bincount(minlength=4).tolist()):
            mine = (seen == label).nonzero().flatten()
            smallest = mine[torch.cat(keys)[mine].argsort()[:count]]
            assert sorted(kept["rows"][kept["targets"] == label].tolist()) == sorted(smallest.tolist())


def test_balanced_refuses_for_ever_what_it_once_refused() -> None:
    """However rows were forgotten since: or those that come later would have better chances."""
    memory, generator, shadow = Balanced(12), seeded(3), seeded(3)
    keys, targets = torch.zeros(0), torch.randint(3, (300,), generator=seeded(4))
    forgotten: set[int] = set()
    for start in range(0, 300, 10):
        rows = torch.arange(start, start + 10)
        memory.insert({"targets": targets[rows], "rows": rows}, generator)
        keys = torch.cat([keys, torch.rand(10, generator=shadow, dtype=torch.float64)])
        kept = set(held(memory))
        for label in range(3):
            mine = {row for row in range(start + 10) if targets[row] == label} - forgotten
            if mine - kept:
                limit = min(keys[row] for row in mine - kept)
                assert all(keys[row] < limit for row in mine & kept)
        if start % 40 == 30:
            gone = held(memory)[::4]
            forgotten |= set(gone)
            memory.drop(torch.tensor(gone))


def test_balanced_with_more_classes_than_rows() -> None:
    memory = filled(Balanced(3), 100, 10, seeded(), classes=7)
    assert len(set(memory.rows_held()["targets"].tolist())) == memory.size == 3


def test_balanced_on_the_classes_of_binary_targets() -> None:
    memory = Balanced(4)
    memory.insert({"targets": torch.tensor([0.0] * 30 + [1.0])}, seeded())
    memory.insert({"targets": torch.ones(30)}, seeded(1))
    assert sorted(memory.rows_held()["targets"].tolist()) == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("counts", "capacity", "shares"),
    [
        ([5, 5], 4, [2, 2]),
        ([1, 9, 9], 9, [1, 4, 4]),
        ([2, 2], 10, [2, 2]),
        ([0, 3], 2, [0, 2]),
        ([9, 9, 9], 2, [1, 1, 0]),
    ],
)
def test_even_shares(counts: list[int], capacity: int, shares: list[int]) -> None:
    assert even_shares(counts, capacity) == shares


# -- forgetting


@pytest.mark.parametrize("kind", [Reservoir, Balanced])
def test_forgotten_rows_are_gone_from_every_byte(kind: type[Memory]) -> None:
    memory = filled(kind(20), 60, 10, seeded(), classes=2)
    gone = held(memory)[::3]
    left = [row for row in held(memory) if row not in gone]
    assert memory.drop(torch.tensor([*gone, 1000])) == len(gone)
    assert held(memory) == left
    assert not torch.isin(memory.get_buffer("rows"), torch.tensor([row for row in gone if row])).any()
    assert memory.drop(torch.tensor(gone)) == 0


def test_what_forgetting_leaves_is_still_a_uniform_sample() -> None:
    rows, trials, generator = 60, 600, seeded(7)
    counts = torch.zeros(rows)
    for _ in range(trials):
        memory = filled(Reservoir(10), 30, 6, generator)
        memory.drop(torch.arange(0, 30, 2))  # half of what it saw
        for start in range(30, 60, 6):
            memory.insert(numbered(start, start + 6), generator)
        assert memory.size <= 10
        counts[memory.rows_held()["rows"]] += 1
    assert counts[torch.arange(0, 30, 2)].sum() == 0
    alive = torch.cat([counts[1:30:2], counts[30:]])
    # 45 cells of binomial(600, 1/6): mean 37, deviation about 8.
    assert chi_square(alive) < 37 + 4 * 8


def test_forgetting_before_the_memory_is_full() -> None:
    memory = filled(Reservoir(10), 6, 6, seeded())
    memory.drop(torch.tensor([0, 5]))
    memory.insert(numbered(6, 9), seeded())
    assert held(memory) == [1, 2, 3, 4, 6, 7, 8]


def test_rows_without_ids_cannot_be_found() -> None:
    memory = Reservoir(3)
    memory.insert({"targets": torch.zeros(2)}, seeded())
    with pytest.raises(ArgumentError, match="the rows held carry no row ids"):
        memory.drop(torch.tensor([0]))


# -- state, and what does not fit


@pytest.mark.parametrize("kind", [Reservoir, Balanced])
@pytest.mark.parametrize("used", [0, 5, 50])
def test_state_comes_back_whatever_the_memory_held(kind: type[Memory], used: int) -> None:
    source = filled(kind(8), 40, 8, seeded(), classes=3)
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target = kind(8)
    for start in range(0, used, 5):
        target.insert({"targets": torch.arange(start, start + 5), "inputs": torch.ones(5, 2, 2)}, seeded(start))
    target.load_state_dict(torch.load(file))
    for memory in (source, target):
        memory.insert(numbered(40, 60, classes=3), seeded(9))
    assert source.seen == target.seen == 60
    for name, column in source.rows_held().items():
        assert torch.equal(column, target.rows_held()[name])


def test_another_capacity_is_refused() -> None:
    with pytest.raises(CheckpointError, match="capacity: the saved memory holds 8 rows, this one 9; use the same"):
        Reservoir(9).load_state_dict(Reservoir(8).state_dict())


def test_no_capacity_is_refused() -> None:
    with pytest.raises(ArgumentError, match="expected at least 1 row, got 0"):
        Reservoir(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": torch.zeros(5, 2)}, r"memory.inputs: expected rows of torch.float32 \(1,\) as before, .* \(2,\)"),
        ({"targets": torch.zeros(5)}, "memory.targets: expected rows of torch.int64 .* got torch.float32"),
        ({"weights": torch.ones(5)}, "expected the columns inputs, rows, targets as before, got .* weights"),
        ({"rows": None}, "expected the columns inputs, rows, targets as before, got inputs, targets"),
    ],
)
def test_other_columns_are_refused(change: dict[str, Any], message: str) -> None:
    memory = filled(Reservoir(10), 5, 5, seeded())
    columns = {name: column for name, column in {**numbered(5, 10), **change}.items() if column is not None}
    with pytest.raises(ArgumentError, match=message):
        memory.insert(columns, seeded())


def test_batches_become_columns_and_back() -> None:
    batch = Batch(
        {"a": torch.ones(2), "b": torch.zeros(2, 3)}, torch.ones(2), weights=torch.ones(2), row_ids=torch.arange(2)
    )
    again = to_batch(columns_of(batch))
    assert isinstance(again.inputs, dict)
    assert list(again.inputs) == ["a", "b"]
    assert again.task is None
    assert again.row_ids is batch.row_ids
