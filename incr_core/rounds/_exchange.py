"""The protocol of an exchange between contributors, and the exchange without peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from incr_core.update import Update, Weights, mean

__all__ = ["Alone", "Exchange"]


class Exchange(Protocol):
    """Merging of named tensors among contributors. All call the same method at the same time.

    Attributes:
        size: Number of contributors, including this one.
        rank: Number of this contributor.
        bytes_sent: Bytes sent by it so far.
        rounds: Dtypes of weights that may be rounded in transfer.
    """

    size: int
    rank: int
    bytes_sent: int
    rounds: frozenset[torch.dtype]

    def total(self, count: int, device: torch.device) -> int:
        """Return the sum of all contributors' counts. `device` is one from which tensors can be sent."""

    def each(self, counts: Sequence[int], device: torch.device) -> list[list[int]]:
        """Return the counts of each contributor, in rank order; all have the same number of counts."""

    def mean(
        self, update: Update, anchor: Weights, rules: Mapping[str, str], left: Mapping[str, Tensor] = {}
    ) -> tuple[Weights, int]:
        """Return `update.mean` of all contributors' updates, and their total number of rows.

        The result may reuse the update's tensors.

        Args:
            update: This contributor's update.
            anchor: The anchor.
            rules: Merge rule of each entry.
            left: Accumulated rounding residue of weights that may be rounded; changed in place.
        """

    def shared(self, state: Weights, rows: int, anchor: Weights, rules: Mapping[str, str]) -> Weights:
        """Return `update.merge_shared` of all contributors' shared strategy states; may reuse `state`."""


class Alone:
    """The exchange of a contributor without peers.

    Example:
        >>> Alone().mean(Update({"w": torch.ones(1)}, num_rows=3), {}, {})
        ({'w': tensor([1.])}, 3)
    """

    size = 1
    rank = 0
    bytes_sent = 0
    rounds: frozenset[torch.dtype] = frozenset()

    def total(self, count: int, device: torch.device) -> int:
        """Return its own count."""
        return count

    def each(self, counts: Sequence[int], device: torch.device) -> list[list[int]]:
        """Return its own counts."""
        return [list(counts)]

    def mean(
        self, update: Update, anchor: Weights, rules: Mapping[str, str], left: Mapping[str, Tensor] = {}
    ) -> tuple[Weights, int]:
        """Return its own update."""
        return mean([update], anchor, rules), update.num_rows

    def shared(self, state: Weights, rows: int, anchor: Weights, rules: Mapping[str, str]) -> Weights:
        """Return its own state."""
        return state
