"""Rows learned since the last consolidation, if consolidation is explicit instead of after every increment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from incr_core.batch import Batch, cat

__all__ = ["UnconsolidatedRows"]


class UnconsolidatedRows:
    """Rows learned since the last consolidation: at least the last `keeps` of them.

    Attributes:
        number: Number of consolidations so far.
        count: Number of rows learned since the last one.

    Example:
        >>> import torch
        >>> rows = UnconsolidatedRows(keeps=3)
        >>> for day in range(4):
        ...     rows.add(Batch(torch.zeros(2, 1), torch.full((2,), float(day))))
        >>> rows.count, rows.take().targets.tolist(), rows.number, rows.count
        (8, [2.0, 2.0, 3.0, 3.0], 1, 0)
    """

    def __init__(self, keeps: int) -> None:
        self.keeps = keeps
        self.number = 0
        self.count = 0
        self._kept: list[Batch] = []

    @property
    def opens(self) -> bool:
        """Whether no increment was added since the last consolidation."""
        return not self._kept

    def add(self, labelled: Batch) -> None:
        """Add the rows of an increment that is about to be learned."""
        self._kept.append(labelled)
        self.count += len(labelled)
        held = sum(map(len, self._kept))
        while held - len(self._kept[0]) >= self.keeps:
            held -= len(self._kept.pop(0))

    def take(self) -> Batch | None:
        """Return the rows to consolidate on, None if there are none, and reset the count."""
        if not self.count:
            return None
        rows = cat(self._kept)
        self._kept, self.count, self.number = [], 0, self.number + 1
        return rows

    def join(self, other: UnconsolidatedRows) -> None:
        """Add the rows of another object, as if they had been learned here."""
        self._kept += other._kept
        self.count += other.count

    def empty(self) -> None:
        """Remove all rows, as if none had been learned since the last consolidation."""
        self._kept, self.count = [], 0

    def erase(self, ids: Tensor) -> int:
        """Erase these rows (n,); return how many of them were held."""
        before = sum(map(len, self._kept))
        self._kept = [rows.without(ids) for rows in self._kept]
        return before - sum(map(len, self._kept))

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the counts."""
        kept = cat(self._kept).state_dict() if self._kept else None
        return {"kept": kept, "sizes": list(map(len, self._kept)), "rows": self.count, "number": self.number}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the rows and the counts."""
        self.count, self.number, self._kept = state["rows"], state["number"], []
        if state["kept"] is not None:
            whole, start = Batch.from_state(state["kept"]), 0
            for size in state["sizes"]:
                self._kept.append(whole.slice(start, start + size))
                start += size
