"""Rows from the memories of other replicas, drawn beside the rows of the own memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from incr_core.memories._columns import Columns

__all__ = ["Others"]


class Others:
    """A sample of the rows in other memories, which represents all of them when rows are drawn.

    Of `count` rows drawn, `size / (own + size)` come from the others. The fraction is exact, not random: the fractional
    remainder is carried to the next draw, so two draws equal one draw of as many rows. Rows come in the order of the
    sample, which is random already; after the last row the sample starts again.

    Args:
        size: Number of rows that the other memories hold.
        pieces: Functions that return rows of the sample and may block. Each is called when its rows are needed.
        left_over: Initial remainder, from 0 to below 1. A random value makes a short increment unbiased as well.

    Example:
        >>> theirs = [lambda: {"targets": torch.tensor([7.0, 8.0])}, lambda: {"targets": torch.tensor([9.0])}]
        >>> others = Others(6, theirs)
        >>> own = lambda count: {"targets": torch.zeros(count)}
        >>> others.beside(own, held=2, count=3)["targets"], others.beside(own, held=2, count=3)["targets"]
        (tensor([0., 7., 8.]), tensor([0., 9., 7.]))
    """

    def __init__(self, size: int, pieces: Iterable[Callable[[], Columns]], left_over: float = 0.25) -> None:
        self.size = size
        self._pieces = list(pieces)
        self._left_over = left_over
        self._come: Columns = {}  # rows of the sample received so far
        self._next = 0  # the next row of it to draw

    def beside(self, own: Callable[[int], Columns], held: int, count: int) -> Columns:
        """Draw `count` rows: some of the others', and the rest with `own` from the `held` rows of this memory."""
        exact = self._left_over + count * self.size / (held + self.size)
        theirs = count if held == 0 else min(count, int(exact))
        self._left_over = max(0.0, min(exact - theirs, 1.0))
        if theirs == 0:
            return own(count)
        found = self._take(theirs)
        if theirs == count:
            return found
        mine = own(count - theirs)
        return {name: torch.cat([mine[name], column]) for name, column in found.items()}

    def _take(self, count: int) -> Columns:
        while self._pieces and self._next + count > self._held:
            more = self._pieces.pop(0)()
            self._come = {name: torch.cat([self._come[name], more[name]]) for name in self._come} or more
        held, start = self._held, self._next
        self._next = start + count if self._pieces else (start + count) % held
        if start + count <= held:
            return {name: column[start : start + count] for name, column in self._come.items()}
        places = torch.arange(start, start + count) % held
        return {name: column.index_select(0, places.to(column.device)) for name, column in self._come.items()}

    @property
    def _held(self) -> int:
        return len(self._come["targets"]) if self._come else 0
