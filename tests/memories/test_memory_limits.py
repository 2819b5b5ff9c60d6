"""Memories within their bytes, and rows that live a time."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import torch

from incr_core.errors import ArgumentError, CheckpointError
from incr_core.memories import MEMORIES, Balanced, Herding, Memory, Reservoir, draw
from incr_core.memories._columns import Columns
from incr_core.storage.packing import pack, unpack
from incr_core.strategies import AGEM, DER, MIR, GDumb, Replay, Strategy
from incr_core.testing._laws import check_strategy


def columns(start: int, count: int, width: int = 6, classes: int = 3) -> Columns:
    rows = torch.arange(start, start + count)
    return {"inputs": rows[:, None] + torch.zeros(count, width), "targets": rows % classes, "rows": rows}


def filled(memory: Memory, rows: int = 3000, batch: int = 37) -> Memory:
    generator = torch.Generator().manual_seed(0)
    for start in range(0, rows, batch):
        memory.insert(columns(start, min(batch, rows - start)), generator)
    return memory


@pytest.mark.parametrize("capacity", ["900 B", "10kB", "4KiB"])
@pytest.mark.parametrize("name", MEMORIES)
def test_a_memory_never_takes_more_than_its_bytes_and_uses_them(name: str, capacity: str) -> None:
    memory = MEMORIES[name](capacity)
    assert memory.budget is not None
    generator = torch.Generator()
    for start in range(0, 1500, 50):
        memory.insert(columns(start, 50), generator)
        assert memory.bytes() <= memory.budget
        assert memory.size <= memory.capacity
    each = memory.bytes() // memory.capacity
    assert memory.bytes() > memory.budget - each
    assert memory.size > 0.85 * memory.capacity  # the means of three classes take slots in one of them


@pytest.mark.parametrize("name", MEMORIES)
def test_a_memory_in_bytes_keeps_to_them_when_it_is_to_be_enlarged(name: str) -> None:
    memory = filled(MEMORIES[name]("2kB"), 500)
    before = {key: value.clone() for key, value in memory.rows_held().items()}
    memory.enlarge(3.0)
    filled(memory, 500)
    assert memory.bytes() <= 2000
    assert memory.rows_held().keys() == before.keys()


def test_herding_keeps_to_its_bytes() -> None:
    memory = Herding("1kB")
    rows = columns(0, 200)
    memory.choose(rows, rows["inputs"])
    assert memory.bytes() <= 1000 < memory.bytes() + 40
    assert memory.size == memory.capacity


@pytest.mark.parametrize(
    ("capacity", "message"),
    [
        ("10", "expected a number of rows, or a size such as \"64MB\", got '10'"),
        ("0MB", 'expected a number of rows, or a size such as "64MB"'),
        ("5 parsecs", 'expected a number of rows, or a size such as "64MB"'),
        (0, "expected at least 1 row, got 0"),
    ],
)
def test_a_capacity_that_is_none_is_told(capacity: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=f"memory.capacity: {message}"):
        Reservoir(capacity)


def test_bytes_that_pay_for_no_row_are_told() -> None:
    with pytest.raises(ArgumentError, match=r"memory.capacity: expected room for at least 1 row of 40 bytes, got 20"):
        Reservoir("20B").insert(columns(0, 1), torch.Generator())


@pytest.mark.parametrize("name", MEMORIES)
def test_a_memory_in_bytes_goes_on_from_its_state(name: str) -> None:
    memory, fresh = filled(MEMORIES[name]("2kB"), 500), MEMORIES[name]("2kB")
    tensors, rest = pack(memory.state_dict())
    fresh.load_state_dict(unpack(tensors, json.loads(json.dumps(rest))))
    for one in (memory, fresh):
        one.insert(columns(500, 40), torch.Generator().manual_seed(1))
    for key, value in memory.rows_held().items():
        assert torch.equal(fresh.rows_held()[key], value)
    with pytest.raises(CheckpointError, match="capacity: the saved memory holds 2000 bytes, this one 3000"):
        MEMORIES[name]("3kB").load_state_dict(memory.state_dict())
    with pytest.raises(CheckpointError, match="capacity: the saved memory holds 2000 bytes, this one 50 rows"):
        MEMORIES[name](50).load_state_dict(memory.state_dict())


@pytest.mark.parametrize("name", ["reservoir", "balanced"])
def test_no_row_outlives_its_time_and_the_memory_stays_filled(name: str) -> None:
    memory, generator = MEMORIES[name](60, 300), torch.Generator().manual_seed(0)
    sizes = []
    for start in range(0, 6000, 25):
        memory.insert(columns(start, 25), generator)
        held = memory.rows_held()["rows"]
        assert int(held.min()) >= start + 25 - 300
        assert len(set(held.tolist())) == len(held)
        if start > 600:
            sizes.append(len(held))
    assert sum(sizes) / len(sizes) > 50


def test_a_reservoir_with_a_time_to_live_is_a_uniform_sample_of_the_last_rows() -> None:
    ages = []
    for seed in range(40):
        memory, generator = Reservoir(50, ttl=400), torch.Generator().manual_seed(seed)
        for start in range(0, 2000, 20):
            memory.insert(columns(start, 20), generator)
        ages.append(1999 - memory.rows_held()["rows"])
    counts = torch.histc(torch.cat(ages).float(), bins=4, min=0, max=400)
    assert float(counts.min() / counts.max()) > 0.75
    assert 40 * 40 < float(counts.sum()) <= 40 * 50


def test_before_the_time_is_over_it_is_the_plain_reservoir() -> None:
    plain, living = filled(Reservoir(50), 900), filled(Reservoir(50, ttl=1000), 900)
    assert torch.equal(plain.rows_held()["rows"], living.rows_held()["rows"])


@pytest.mark.parametrize("memory", [Reservoir(60, 300), Balanced(60, 300), MEMORIES["window"](60), Herding(60)])
def test_given_rows_are_forgotten(memory: Memory) -> None:
    if isinstance(memory, Herding):
        rows = columns(0, 300)
        memory.choose(rows, rows["inputs"])
    else:
        filled(memory, 1000)
    asked = memory.rows_held()["rows"][::3].clone()
    assert memory.drop(torch.cat([asked, torch.tensor([10**9])])) == len(asked)
    held = memory.rows_held()
    assert not torch.isin(held["rows"], asked).any()
    for name, column in memory.named_buffers():  # nothing of them is left behind in the room they took
        assert not column[memory.size :].any(), name


def test_a_time_to_live_that_cannot_be_is_told() -> None:
    with pytest.raises(ArgumentError, match=r"memory.ttl: expected more than the 100 rows of the capacity, got 50"):
        Replay(100, ttl=50)
    with pytest.raises(
        ArgumentError, match=r"memory.ttl: expected a whole number of rows, got 10000.0; write one without"
    ):
        Replay(100, ttl=10000.0)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"memory.ttl: prototypes are means of rows of every age"):
        DER(100, ttl=500, memory="prototypes")
    with pytest.raises(ArgumentError, match=r"memory.ttl: expected more than the 250 rows of the capacity, got 200"):
        filled(Reservoir("12kB", ttl=200))


def test_replay_of_a_small_memory_draws_no_row_twice() -> None:
    memory, generator = filled(Reservoir(40)), torch.Generator().manual_seed(0)
    for _ in range(20):
        assert len(set(draw(memory, 30, generator)["rows"].tolist())) == 30


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        partial(Replay, 20, ttl=30),
        partial(Replay, 20, ttl=30, memory="balanced"),
        partial(Replay, "1kB"),
        partial(DER, "2kB", memory="balanced"),
        partial(MIR, 20, candidates=10, ttl=40),
        partial(AGEM, "1kB", rows=8, memory="window"),
        partial(GDumb, "1kB", passes=1),
    ],
    ids=["ttl", "balanced ttl", "bytes", "der", "mir", "agem", "gdumb"],
)
def test_the_laws_hold_within_limits(make: partial[Strategy]) -> None:
    check_strategy(make)
