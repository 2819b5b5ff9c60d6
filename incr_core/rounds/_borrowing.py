"""Borrowing of remembered rows: a sample of the other replicas' memories, for one increment.

    before an increment, with memories that hold s_j rows, and replica i about to draw d_i remembered rows:

    replica i borrows  n_i = min(S_i, ceil(d_i S_i / (s_i + S_i)))  rows,  S_i = sum of s_j over the others j,
    from replica j     n_i s_j / S_i  of them, which j draws at random at the start of the increment
    and learns         of each `count` rows drawn, S_i / (s_i + S_i) borrowed ones, the rest from its own memory

Its own memory receives new rows meanwhile. The draws are a function of the replicas' memories, their number, and the
generators of their learners, which are all part of a commit; no clock is involved. The rows that an increment needs are
known at its start; most of them are fetched during its first steps.

Reference: Bouvier et al. 2024, arXiv:2406.03285, section IV (fetching remembered rows during learning).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor

from incr_core.errors import JobError
from incr_core.learner import Learner
from incr_core.memories import Columns, Memory, Others, draw_held
from incr_core.rounds._exchange import Exchange
from incr_core.strategies import Strategy
from incr_core.update import Weights

__all__ = ["Lending", "borrowed", "check_borrowing", "loans"]

FIRST = 512
"""Rows of a sample that are fetched before the others, so that learning can begin."""

MOST = 1 << 28
"""Maximum number of bytes of a sample; if the sample would be larger, its rows are drawn several times."""


class Lending(Protocol):
    """Transfer of remembered rows between replicas.

    Attributes:
        bytes_sent: Bytes sent by this replica so far.
        seconds_waited: Seconds waited for other replicas so far.
    """

    bytes_sent: int
    seconds_waited: float

    def begin(self) -> None:
        """Start lending for the next rows to learn; earlier loans are no longer requested."""

    def lend(self, taker: int, piece: int, rows: Weights) -> None:
        """Offer these columns to a replica, as the given piece of its loan."""

    def borrow(self, pieces: Sequence[Sequence[int]]) -> list[Callable[[], list[Weights]]]:
        """Start fetching pieces, each in parts from the replicas listed in `pieces`; each result waits for its parts,
        in order.
        """


@contextmanager
def borrowed(learner: Learner, exchange: Exchange, lending: Lending, rows: int, batches: int) -> Iterator[None]:
    """Let draws from a learner's memories include rows that other replicas remember, within the context.

    All replicas enter it at the same time.

    Args:
        learner: The learner.
        exchange: Its exchange.
        lending: Transfer of rows.
        rows: Number of rows that this replica is about to learn.
        batches: Number of batches of these rows.
    """
    memories, wants = _drawn_from(learner, rows, batches)
    if not memories:
        yield
        return
    bytes_each = max(map(_row_bytes, memories))
    told = exchange.each([bytes_each, *(memory.size for memory in memories), *wants], learner.device)
    most = MOST // max(1, *(one[0] for one in told))
    held, wanted = ([one[start:][: len(memories)] for one in told] for start in (1, 1 + len(memories)))
    lending.begin()
    try:
        _lend_and_borrow(learner.context.generator, memories, exchange.rank, held, wanted, most, lending)
        yield
    finally:
        for memory in memories:
            memory.others = None


def check_borrowing(strategies: Sequence[Strategy]) -> None:
    """Check that all strategies with memories can draw from the memories of all replicas.

    Raises:
        JobError: A strategy needs its memory as a whole, a memory overrides `sample`, or no strategy has a memory.

    Example:
        >>> from incr_core.strategies import GDumb
        >>> check_borrowing([GDumb()])
        Traceback (most recent call last):
        ...
        incr_core.errors.JobError: cluster.memory_scope: expected strategies that draw remembered rows with "all", got
        GDumb, which needs its memory as a whole; use "own", or replay
    """
    place, remembers = "cluster.memory_scope", False
    for strategy in strategies:
        memories = [part for part in strategy.modules() if isinstance(part, Memory)]
        if memories and strategy.draws(1, 1) is None:
            raise JobError(
                f'{place}: expected strategies that draw remembered rows with "all", got {type(strategy).__name__}, '
                'which needs its memory as a whole; use "own", or replay'
            )
        for memory in memories:
            if type(memory).sample is not Memory.sample:
                raise JobError(
                    f'{place}: expected memories whose draws can have rows of others with "all", got '
                    f"{type(memory).__name__}, which overrides `sample`; override `sample_held` there"
                )
        remembers = remembers or bool(memories)
    if not remembers:
        raise JobError(f'{place}: expected a strategy that remembers rows with "all", such as replay, got none')


def loans(held: Sequence[int], wants: Sequence[int], most: int) -> list[list[int]]:
    """Return how many rows each replica borrows from each other replica.

    Args:
        held: Rows in the memory of each replica.
        wants: Rows that each is about to draw.
        most: Maximum number that one may borrow.

    Example:
        >>> loans([4, 2, 2], wants=[6, 0, 100], most=5)
        [[0, 1, 2], [0, 0, 0], [3, 2, 0]]
    """
    table = []
    for taker, want in enumerate(wants):
        others = [0 if giver == taker else size for giver, size in enumerate(held)]
        total = sum(others)
        count = min(total, most, -(-want * total // max(1, sum(held))))
        ends = [count * end // max(1, total) for end in accumulate(others, initial=0)]
        table.append([stop - start for start, stop in pairwise(ends)])
    return table


def _drawn_from(learner: Learner, rows: int, batches: int) -> tuple[list[Memory], list[int]]:
    """Return the memories that are drawn from, and the number of rows about to be drawn from each."""
    memories, wants = list[Memory](), list[int]()
    for strategy in learner.strategies:
        assert isinstance(strategy, Strategy)
        want = None if strategy.off else strategy.draws(rows, batches)
        if want is not None:
            found = [part for part in strategy.modules() if isinstance(part, Memory)]
            memories += found
            wants += [want] * len(found)
    return memories, wants


def _row_bytes(memory: Memory) -> int:
    return sum(column[:1].nbytes for column in memory.rows_held().values())


def _lend_and_borrow(
    generator: torch.Generator,
    memories: Sequence[Memory],
    rank: int,
    held: Sequence[Sequence[int]],
    wanted: Sequence[Sequence[int]],
    most: int,
    lending: Lending,
) -> None:
    """Offer rows and fetch rows for each memory. `held` and `wanted` are rows by replica and memory."""
    going: dict[tuple[int, int], Weights] = {}  # columns by borrower and piece
    coming: list[tuple[list[int], list[int]]] = []  # for each memory the rows of each piece, by lender
    for number, memory in enumerate(memories):
        sizes = [one[number] for one in held]
        pieces = [_pieces(row) for row in loans(sizes, [one[number] for one in wanted], most)]
        coming.append(pieces[rank])
        lent = _drawn_for_each(memory, [ahead[rank] + rest[rank] for ahead, rest in pieces], generator)
        for taker, (rows, counts) in enumerate(zip(lent, pieces, strict=True)):
            ahead = counts[0][rank]
            for piece, part in enumerate((slice(ahead), slice(ahead, None))):
                if counts[piece][rank]:
                    named = {f"{number}/{name}": column[part] for name, column in rows.items()}
                    going.setdefault((taker, piece), {}).update(named)
    for (taker, piece), rows in going.items():
        lending.lend(taker, piece, rows)
    givers = [[giver for giver in range(len(held)) if any(both[piece][giver] for both in coming)] for piece in (0, 1)]
    come = lending.borrow(givers)
    device = generator.device
    for number, (memory, both) in enumerate(zip(memories, coming, strict=True)):
        orders = [torch.randperm(sum(counts), generator=generator, device=device) for counts in both]
        if len(orders[0]):
            others = sum(one[number] for place, one in enumerate(held) if place != rank)
            found = [partial(_columns, *one, number) for one in zip(come, orders, strict=True) if len(one[1])]
            left_over = torch.rand((), generator=generator, device=device).item()
            memory.others = Others(others, found, left_over)


def _pieces(counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the rows of each lender in the first piece of a loan, and in the second.

    Example:
        >>> _pieces([0, 512, 1536])
        ([0, 128, 384], [0, 384, 1152])
    """
    total = sum(counts)
    first = FIRST if total > 2 * FIRST else total
    ahead = [-(-count * first // max(1, total)) for count in counts]
    return ahead, [count - part for count, part in zip(counts, ahead, strict=True)]


def _drawn_for_each(memory: Memory, counts: Sequence[int], generator: torch.Generator) -> list[Columns]:
    """Draw rows for each borrower: distinct for one borrower, and for several until all rows were drawn once.

    Example:
        >>> from incr_core.memories import Reservoir
        >>> memory, generator = Reservoir(4), torch.Generator()
        >>> memory.insert({"targets": torch.arange(4)}, generator)
        >>> [len(set(rows["targets"].tolist())) for rows in _drawn_for_each(memory, [3, 4, 1], generator)]
        [3, 4, 1]
    """
    found, start = list[Columns](), 0
    while start < len(counts):
        stop, total = start + 1, counts[start]
        while stop < len(counts) and total + counts[stop] <= memory.size:
            total += counts[stop]
            stop += 1
        rows = draw_held(memory, total, generator) if total else {}
        rows.pop("born", None)
        ends = accumulate(counts[start:stop], initial=0)
        found += [{name: column[one:other] for name, column in rows.items()} for one, other in pairwise(ends)]
        start = stop
    return found


def _columns(come: Callable[[], list[Weights]], order: Tensor, number: int) -> Columns:
    """Return the received columns of one memory, in the order in which they are to be drawn."""
    own = f"{number}/"
    parts = [
        {name.removeprefix(own): column for name, column in part.items() if name.startswith(own)} for part in come()
    ]
    parts = [part for part in parts if part]
    return {
        name: torch.cat([part[name] for part in parts]).to(order.device).index_select(0, order) for name in parts[0]
    }
