"""Reference rows: a bounded sample of the past on which a participant compares a new version with the champion.

Only losses are compared. The champion's losses were computed when it was the new version, and are stored with the rows.
No second set of weights is needed, and a commit costs one forward pass over the reference rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from incr_core.batch import Batch, cat
from incr_core.learner import Learner
from incr_core.rounds._losses import losses_of
from incr_core.rounds._sampling import ids_of, smallest

__all__ = ["VERDICTS", "Reference"]

VERDICTS = ("hold", "promote", "recover", "restart")
"""Possible verdicts on a version (`Reference.follow`)."""

ALIKE = 2
"""Number of slices of equal length; if there is one more, the two oldest are merged."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of a period that is 2^level verdicts long, and the champion's loss of each (B,) float64."""

    level: int
    rows: Batch
    losses: Tensor


class Reference:
    """Rows of the past, in periods that double in length going back, and the rows learned since the last verdict.

    For n commits at most 2 size log2(n) rows are kept, half of them from the latest sqrt(n).

    Args:
        size: Rows kept per period: those whose ids have the smallest hashes, a uniform sample that needs no state.

    Example:
        >>> from incr_core.objectives import Binary
        >>> learner = Learner(torch.nn.Linear(1, 1), Binary(), torch.optim.SGD)
        >>> reference = Reference(size=2)
        >>> for day in range(3):
        ...     rows = torch.arange(4) + 4 * day
        ...     reference.add(Batch(torch.ones(4, 1), torch.ones(4), row_ids=rows))
        ...     judged = reference.judge(learner)
        ...     reference.follow("promote")
        >>> judged[0], judged[1] == judged[2], len(reference.rows_held())
        (tensor(4., dtype=torch.float64), tensor(True), 4)
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._past: list[Slice] = []  # oldest first
        self._since: Batch | None = None  # rows learned since a version was last promoted
        self._judged: Tensor | None = None  # losses of the version judged last, on all of these rows in order

    def add(self, labelled: Batch) -> None:
        """Sample the rows of an increment that is about to be learned."""
        if len(labelled):
            rows = labelled if self._since is None else cat([self._since, labelled])
            self._since = rows.take(smallest(ids_of(rows), self.size))

    def judge(self, learner: Learner) -> Tensor:
        """Return sums (5,) float64 over past rows: the count, the champion's losses, the learner's, the difference, its
        square.

        Rows with an unknown loss of the champion do not count.
        """
        kept = [one.rows for one in self._past] + ([] if self._since is None else [self._since])
        self._judged = _losses(learner, cat(kept)) if kept else torch.empty(0, dtype=torch.float64)
        champion = torch.cat([torch.empty(0, dtype=torch.float64), *(one.losses for one in self._past)])
        known = champion.isfinite()
        champion, now = champion[known], self._judged[: len(known)][known]
        change = now - champion
        return torch.stack([known.sum().double(), champion.sum(), now.sum(), change.sum(), (change**2).sum()])

    def follow(self, verdict: str) -> None:
        """Apply the verdict on the version that was judged last.

        Args:
            verdict: "hold": its rows do not belong to the past yet. "promote": it is now the champion, and its rows
                belong to the past. "recover": the same after versions were held, whose rows are dropped. "restart":
                those rows become the whole past.
        """
        judged, self._judged = self._judged, None
        if verdict == "hold" or judged is None:
            return
        sizes = [*(len(one.rows) for one in self._past), 0 if self._since is None else len(self._since)]
        losses = torch.split(judged, sizes)
        past = [] if verdict == "restart" else zip(self._past, losses, strict=False)
        self._past = [Slice(one.level, one.rows, now) for one, now in past]
        since, self._since = self._since, None
        if since is not None and verdict != "recover":
            self._past.append(Slice(0, since, losses[-1]))
            self._thin()

    def _thin(self) -> None:
        """Merge slices while there are too many of one length."""
        level = 0
        while sum(one.level == level for one in self._past) > ALIKE:
            place = next(place for place, one in enumerate(self._past) if one.level == level)
            older, newer = self._past[place : place + 2]
            rows, losses = cat([older.rows, newer.rows]), torch.cat([older.losses, newer.losses])
            kept = smallest(ids_of(rows), self.size)
            self._past[place : place + 2] = [Slice(level + 1, rows.take(kept), losses[kept])]
            level += 1

    def rows_held(self) -> Tensor:
        """Return the ids (n,) of all rows kept here."""
        held = [one.rows for one in self._past] + ([] if self._since is None else [self._since])
        return torch.cat(
            [torch.empty(0, dtype=torch.int64), *(rows.row_ids for rows in held if rows.row_ids is not None)]
        )

    def erase(self, ids: Tensor) -> None:
        """Delete rows by their ids (n,)."""
        for place, one in enumerate(self._past):
            assert one.rows.row_ids is not None, "rows of a stream have ids"
            left = ~torch.isin(one.rows.row_ids, ids)
            self._past[place] = Slice(one.level, one.rows.take(left.nonzero().flatten()), one.losses[left])
        self._since = None if self._since is None else self._since.without(ids)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the champion's losses. States are saved between a verdict and the next."""
        return {
            "past": [{"level": one.level, "rows": one.rows.state_dict(), "losses": one.losses} for one in self._past],
            "since": None if self._since is None else self._since.state_dict(),
            "judged": self._judged,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the rows and losses."""
        self._past = [Slice(one["level"], Batch.from_state(one["rows"]), one["losses"]) for one in state["past"]]
        self._since = None if state["since"] is None else Batch.from_state(state["since"])
        self._judged = state["judged"]


def _losses(learner: Learner, rows: Batch) -> Tensor:
    """Return the learner's loss of each row, (B,) float64; NaN if it is not meaningful."""
    if not learner.objective.ready:
        return torch.full((len(rows),), torch.nan, dtype=torch.float64)
    return losses_of(learner, learner.predict(rows.inputs), rows)
