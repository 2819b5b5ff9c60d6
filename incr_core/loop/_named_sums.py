"""Statistics of predictions by name, of each client or each slice, side by side in a few arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from incr_core.metrics import Statistics

__all__ = ["NamedSums"]


class NamedSums:
    """The statistics of each name's predictions so far, side by side.

    >>> sums = NamedSums()
    >>> _ = sums.add("north", {"sums": np.ones(2)})
    >>> sums.add("north", {"sums": np.ones(2)})["sums"]
    array([2., 2.])
    >>> again = NamedSums()
    >>> again.load_state_dict(sums.state_dict())
    >>> again.add("south", {"sums": np.ones(3)})["sums"], again.add("north", {})["sums"]
    (array([1., 1., 1.]), array([2., 2., 0.]))
    """

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._sums: dict[str, Any] = {}  # statistic -> (names, ...)

    @property
    def names(self) -> list[str]:
        """In the order in which they came."""
        return list(self._places)

    def add(self, name: str, statistics: Statistics) -> Statistics:
        """Add those of more predictions; returns what they are now, until more is added."""
        place = self._places.setdefault(name, len(self._places))
        for key, value in statistics.items():
            held = self._sums.get(key, np.zeros((0,) * (value.ndim + 1)))
            shape = np.maximum(held.shape, (len(self._places), *value.shape))
            if any(shape != held.shape):  # another name, or another class
                shape[0] = max(shape[0], 2 * len(held))
                larger = np.zeros(shape)
                larger[tuple(map(slice, held.shape))] = held
                held = self._sums[key] = larger
            held[(place, *map(slice, value.shape))] += value
        return {key: held[place] for key, held in self._sums.items() if place < len(held)}

    def state_dict(self) -> dict[str, Any]:
        """Return the names and their statistics."""
        count = len(self._places)
        return {"clients": self.names, "sums": {name: held[:count] for name, held in self._sums.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the names and statistics of `state_dict`."""
        self._places = {name: place for place, name in enumerate(state["clients"])}
        self._sums = {name: np.array(held) for name, held in state["sums"].items()}
