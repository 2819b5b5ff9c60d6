"""How a contributor merges with its peers, and the exchange of one that has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from incr_core.update import Update, Weights, mean

__all__ = ["Alone", "Exchange"]


class Exchange(Protocol):
    """How a contributor merges named tensors with its peers; all call the same method at the same time.

    size: how many contributors merge, this one included. rank: which of them this one is. bytes_sent: by it, so far.
    rounds: the types of weights that may be rounded on their way.
    """

    size: int
    rank: int
    bytes_sent: int
    rounds: frozenset[torch.dtype]

    def total(self, count: int, device: torch.device) -> int:
        """The sum of all contributors' counts. device: on which tensors can be sent."""

    def each(self, counts: Sequence[int], device: torch.device) -> list[list[int]]:
        """The counts of each contributor, in rank order; as many of each."""

    def mean(
        self, update: Update, anchor: Weights, rules: Mapping[str, str], left: Mapping[str, Tensor] = {}
    ) -> tuple[Weights, int]:
        """`update.mean` of all contributors' updates, in this one's tensors or others, and the rows they stand for.

        left: of weights that may be rounded, what rounding has left over so far; changed in place.
        """

    def shared(self, state: Weights, rows: int, anchor: Weights, rules: Mapping[str, str]) -> Weights:
        """`update.merge_shared` of all contributors' shared strategy states, in this one's tensors or others."""


class Alone:
    """The exchange of a contributor without peers.

    >>> Alone().mean(Update({"w": torch.ones(1)}, num_rows=3), {}, {})
    ({'w': tensor([1.])}, 3)
    """

    size = 1
    rank = 0
    bytes_sent = 0
    rounds: frozenset[torch.dtype] = frozenset()

    def total(self, count: int, device: torch.device) -> int:
        """Its own count."""
        return count

    def each(self, counts: Sequence[int], device: torch.device) -> list[list[int]]:
        """Its own counts."""
        return [list(counts)]

    def mean(
        self, update: Update, anchor: Weights, rules: Mapping[str, str], left: Mapping[str, Tensor] = {}
    ) -> tuple[Weights, int]:
        """Its own update."""
        return mean([update], anchor, rules), update.num_rows

    def shared(self, state: Weights, rows: int, anchor: Weights, rules: Mapping[str, str]) -> Weights:
        """Its own state."""
        return state
