"""Data that an owner's client has not reported yet, because it covers too few rows. It is reported when there is more.

Counts, sums for metrics, probes, and rows that cannot be used are accumulated over increments until they cover `least`
rows. Slices of one column are reported together, so that no difference between two sums covers fewer rows. They wait
until each covers enough, or, if a value is rare, until it can count among the other values. Rows to learn are not
handled here: those that the server does not know of wait with the client, and come first in the next increment
(`Participant.receive`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from incr_core import metrics
from incr_core.data.encoding import Slices
from incr_core.metrics import Packed, Statistics
from incr_core.rounds import Arrival

__all__ = ["HeldBack"]

MOST_BAD = 100_000
"""Maximum number of bad rows in one report. The others follow with the next increments."""


PATIENCE = 20
"""Multiple of `least`: when a column has this many rows held back, its rare values count among the others."""


class HeldBack:
    """The data that one client holds back.

    Args:
        least: Minimum number of rows of a report.
        slices: Slices of the job.

    Attributes:
        duplicates: Ids of duplicates that have not been reported.
        bad: Ids of bad rows that have not been reported.

    Example:
        >>> from incr_core.data.timeline import Tick
        >>> held = HeldBack(least=10)
        >>> few = Arrival(Tick(0, "first"), torch.arange(4), arriving=6, predicted=6)
        >>> held.told(few)["arriving"], held.told(few)["arriving"], bool(held)
        (0, 12, False)
    """

    def __init__(self, least: int, slices: Slices | None = None) -> None:
        self.least, self.slices = least, slices
        self._begin()

    def _begin(self) -> None:
        self._counts = dict.fromkeys(("arriving", "predicted", "scored"), 0)
        self._statistics: Statistics = {}
        self._sliced: dict[str, tuple[int, Packed]] = {}
        self._probed: list[Tensor] = []
        self.duplicates = self.bad = torch.zeros(0, dtype=torch.int64)

    def __bool__(self) -> bool:
        return any(self._counts.values()) or bool(len(self.duplicates) or len(self.bad))

    def may_tell(self, rows: int) -> bool:
        """Return whether a report may cover this number of rows."""
        return rows >= self.least

    def told(self, arrival: Arrival) -> dict[str, Any]:
        """Return the report of an increment and of earlier data: counts, sums for metrics, and probes.

        The rest is held back.

        It contains nothing about the rows to learn if they are too few.
        """
        for key in self._counts:
            self._counts[key] += getattr(arrival, key)
        self._statistics = metrics.total([self._statistics, arrival.statistics])
        told: dict[str, Any] = {"arriving": self._count("arriving"), "predicted": self._count("predicted")}
        told["scored"] = self._count("scored")
        told["statistics"] = self._statistics if told["scored"] else {}
        if told["scored"]:
            self._statistics = {}
        self._sliced = _added(self._sliced, arrival.sliced)
        told["sliced"] = self._slices() if told["scored"] else {}
        learns = self.may_tell(arrival.labelled)
        return {
            **told,
            "probed": self._blocks(arrival.probed),
            "labelled": arrival.labelled if learns else 0,
            "observed": arrival.observed if learns else {},
            "tasks": arrival.tasks if learns else [],
        }

    def unusable(self, arrival: Arrival) -> tuple[Tensor, Tensor]:
        """Return the ids of duplicates and of bad rows, of all increments, that may be reported now."""
        bad = torch.tensor([row.row for row in arrival.bad], dtype=torch.int64)
        duplicates, bad = torch.cat([self.duplicates, arrival.duplicates]), torch.cat([self.bad, bad])
        none = duplicates[:0]
        doubles = duplicates if self.may_tell(len(duplicates)) else none
        useless = bad[:MOST_BAD] if self.may_tell(len(bad)) else none
        self.duplicates, self.bad = duplicates[len(doubles) :], bad[len(useless) :]
        return doubles, useless

    def _count(self, key: str) -> int:
        count = self._counts[key]
        if not self.may_tell(count):
            return 0
        self._counts[key] = 0
        return count

    def _slices(self) -> dict[str, tuple[int, Packed]]:
        """Return the slices of the columns with enough rows. Values with fewer rows count among the other values."""
        told: dict[str, tuple[int, Packed]] = {}
        for others in dict.fromkeys(self.slices.others(name) for name in self._sliced) if self.slices else ():
            assert self.slices is not None
            held = {name: value for name, value in self._sliced.items() if self.slices.others(name) == others}
            few = [name for name, (rows, _) in held.items() if name == others or not self.may_tell(rows)]
            if {*few} - {others} and sum(rows for rows, _ in held.values()) < PATIENCE * self.least:
                continue
            rest: dict[str, tuple[int, Packed]] = {}
            for name in few:
                rest = _added(rest, {others: held[name]})
            if rest and not self.may_tell(rest[others][0]):
                continue
            told |= {name: value for name, value in held.items() if name not in few} | rest
            self._sliced = {name: value for name, value in self._sliced.items() if name not in held}
        return told

    def _blocks(self, probed: list[Tensor]) -> list[Tensor]:
        """Return sums over enough rows each, (m, 2, F), of probes that may cover fewer. The remainder is held back."""
        if not probed:
            return []
        held = self._probed or [blocks[:0] for blocks in probed]
        told = [_merged(torch.cat([old, new]), self.least) for old, new in zip(held, probed, strict=True)]
        self._probed = [rest for _, rest in told]
        return [blocks for blocks, _ in told]

    def state_dict(self) -> dict[str, Any]:
        """Return the data that is held back."""
        return {
            "counts": dict(self._counts),
            "statistics": dict(self._statistics),
            "sliced": {name: [rows, dict(metrics.total([sums]))] for name, (rows, sums) in self._sliced.items()},
            "probed": list(self._probed),
            "duplicates": self.duplicates,
            "bad": self.bad,
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Restore the data that is held back; None restores none."""
        self._begin()
        if state:
            self._counts, self._statistics = dict(state["counts"]), dict(state["statistics"])
            self._sliced = {name: (rows, sums) for name, (rows, sums) in state.get("sliced", {}).items()}
            self._probed = list(state["probed"])
            self.duplicates, self.bad = state["duplicates"], state["bad"]


def _added(
    held: Mapping[str, tuple[int, Packed]], new: Mapping[str, tuple[int, Packed]]
) -> dict[str, tuple[int, Packed]]:
    """Return slices with added rows and sums."""
    both = dict(held)
    for name, (rows, sums) in new.items():
        before, so_far = both.get(name, (0, {}))
        both[name] = before + rows, metrics.total([so_far, sums])
    return both


def _merged(blocks: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Add up sums and counts (m, 2, F) until each covers `least` rows. Return these, and the remainder in one.

    A column with fewer finite values in such a sum is set to 0 there.

    Example:
        >>> ones = torch.ones(5, 2, 1)
        >>> told, rest = _merged(ones, 2)
        >>> told.flatten().tolist(), rest.flatten().tolist()
        ([2.0, 2.0, 2.0, 2.0], [1.0, 1.0])
    """
    told, sums = [blocks[:0]], torch.zeros_like(blocks[:1].sum(0))
    for block in blocks:
        sums = sums + block
        if sums[1].max() >= least:
            told.append(torch.where(sums[1] >= least, sums, 0.0)[None])
            sums = torch.zeros_like(block)
    return torch.cat(told), sums[None] if sums[1].any() else blocks[:0]
