"""The rows that strategies consolidate on, where they do so on order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from incr_core.batch import Batch, cat

__all__ = ["Span"]


class Span:
    """Rows learned since the strategies last consolidated: at least the last `keeps` of them.

    number: how many times they have consolidated. rows: how many rows were learned since. opens: whether none was.

    >>> import torch
    >>> span = Span(keeps=3)
    >>> for day in range(4):
    ...     span.add(Batch(torch.zeros(2, 1), torch.full((2,), float(day))))
    >>> span.rows, span.close().targets.tolist(), span.number, span.rows
    (8, [2.0, 2.0, 3.0, 3.0], 1, 0)
    """

    def __init__(self, keeps: int) -> None:
        self.keeps = keeps
        self.number = 0
        self.rows = 0
        self._kept: list[Batch] = []

    @property
    def opens(self) -> bool:
        """Whether no increment of it was begun."""
        return not self._kept

    def add(self, labelled: Batch) -> None:
        """An increment is begun."""
        self._kept.append(labelled)
        self.rows += len(labelled)
        held = sum(map(len, self._kept))
        while held - len(self._kept[0]) >= self.keeps:
            held -= len(self._kept.pop(0))

    def close(self) -> Batch | None:
        """The rows to consolidate on, None where nothing was learned; the next span opens."""
        if not self.rows:
            return None
        rows = cat(self._kept)
        self._kept, self.rows, self.number = [], 0, self.number + 1
        return rows

    def forget(self, ids: Tensor) -> int:
        """Keep these rows (n,) no longer; returns how many were kept."""
        before = sum(map(len, self._kept))
        self._kept = [part.without(ids) for part in self._kept]
        return before - sum(map(len, self._kept))

    def state_dict(self) -> dict[str, Any]:
        """The rows kept, and the counts."""
        kept = asdict(cat(self._kept)) if self._kept else None
        return {"kept": kept, "sizes": list(map(len, self._kept)), "rows": self.rows, "number": self.number}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.rows, self.number, self._kept = state["rows"], state["number"], []
        if state["kept"] is not None:
            whole, start = Batch(**state["kept"]), 0
            for size in state["sizes"]:
                self._kept.append(whole.slice(start, start + size))
                start += size
