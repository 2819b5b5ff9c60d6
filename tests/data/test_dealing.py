"""Dealing: the replicas of one stream get equal shares of every increment, however small, and every row one owner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from incr_core.batch import Batch
from incr_core.data.timeline import Blocks, Increment
from incr_core.job import Job
from incr_core.strategies import Replay
from tests.support.streams import EVERY, flights, ids, same, same_batch, stream, untimed, write


def dealt(rows: int, count: int, size: int, before: int = 0) -> list[list[int]]:
    """The rows of an increment that each replica gets."""
    numbers = torch.arange(float(rows))
    batch = Batch(numbers, numbers, row_ids=torch.arange(rows))
    return [ids([Blocks(index, count, size).deal(batch, before)]) for index in range(count)]


@pytest.mark.parametrize(
    ("rows", "count", "size", "shares"),
    [
        (50, 4, 32, [13, 13, 12, 12]),
        (32, 2, 32, [16, 16]),
        (330, 2, 32, [165, 165]),
        (3, 8, 32, [1, 1, 1, 0, 0, 0, 0, 0]),
        (0, 2, 32, [0, 0]),
    ],
)
def test_few_rows_are_shared_equally(rows: int, count: int, size: int, shares: list[int]) -> None:
    assert [len(mine) for mine in dealt(rows, count, size)] == shares


def test_a_small_increment_is_one_run_of_rows_for_each_replica() -> None:
    assert dealt(7, 3, 4) == [[0, 1, 2], [3, 4], [5, 6]]
    assert dealt(7, 3, 4, before=7) == [[5, 6], [0, 1, 2], [3, 4]]


def test_full_blocks_are_dealt_in_turn_so_that_two_replicas_take_the_steps_of_accumulate_2() -> None:
    one, other = dealt(22, 2, 4)
    assert one == [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18]
    assert other == [4, 5, 6, 7, 12, 13, 14, 15, 19, 20, 21]


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("draw", [False, True], ids=["fifty rows", "any number of rows"])
def test_a_thousand_increments_are_balanced_one_by_one_and_in_sum(count: int, draw: bool) -> None:
    sizes = np.random.default_rng(count).integers(0, 200, 1000) if draw else np.full(1000, 50)
    total = np.zeros(count, np.int64)
    for rows in sizes.tolist():
        shares = dealt(rows, count, 16, int(total.sum()))
        assert sorted(row for mine in shares for row in mine) == list(range(rows))
        lengths = np.array([len(mine) for mine in shares])
        total += lengths
        assert np.ptp(lengths) <= 1
        assert np.ptp(total) <= 1


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("timed", [True, False])
def test_replicas_of_a_stream_share_all_of_its_rows(tmp_path: Path, every: Any, timed: bool) -> None:
    """Rows to learn are not those that arrive, where labels are delayed: each are dealt out by themselves."""
    if not timed and every in ("1h", "7h", "1d"):
        pytest.skip("ticks need times")
    folder = write(tmp_path, flights(500), 3)
    make = stream if timed else untimed
    whole = list(make(folder, every=every).increments())
    shares = [list(make(folder, every=every, partition=Blocks(i, 3, 8)).increments()) for i in range(3)]
    for of in ("arriving", "labelled"):
        lengths = np.array([[len(getattr(step, of)) for step in share] for share in shares])
        assert (np.ptp(lengths, axis=0) <= 1).all()
        assert np.ptp(lengths.sum(axis=1)) <= 1
        assert lengths.sum(axis=0).tolist() == [len(getattr(step, of)) for step in whole]
        rows = sorted(ids(getattr(step, of) for share in shares for step in share))
        assert rows == sorted(ids(getattr(step, of) for step in whole))
    for share in shares:
        assert all(same_batch(mine.revealed, step.revealed) for mine, step in zip(share, whole, strict=True))


@pytest.mark.parametrize("every", ["1h", 37, "file"])
def test_a_resumed_replica_is_dealt_what_an_uninterrupted_one_is(tmp_path: Path, every: Any) -> None:
    folder = write(tmp_path, flights(300), 4)

    def make(cursor: Any = None) -> list[Increment]:
        return list(stream(folder, every=every, partition=Blocks(1, 3, 8)).increments(cursor))

    whole = make()
    for place in range(0, len(whole), 5):
        assert same(make(whole[place].cursor), whole[place + 1 :])


@pytest.mark.parametrize("shuffle", [True, False])
def test_replicas_learn_every_row_once(small_job: Callable[..., Job], shuffle: bool) -> None:
    """By a memory of all rows that were learned."""
    memory = {"name": "replay", "capacity": 1000, "memory": "window"}
    job = small_job("stream.every=30", f"learner.shuffle={str(shuffle).lower()}", strategy=[memory])
    learned: list[int] = []
    for index in range(4):
        participant = job.participant("part", index, Blocks(index, 4, 16))
        while participant.receive() is not None:
            participant.begin()
            participant.advance()
        [replay] = participant.learner.strategies
        assert isinstance(replay, Replay)
        learned += replay.memory.rows_held()["rows"].tolist()
    assert sorted(learned) == list(range(470))
