"""Losses and calibration of champion and challenger on the rows held back."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

from incr_core import metrics
from incr_core.objectives import Objective
from incr_core.rounds import Comparison

__all__ = ["Newest"]

MEASURED = ("calibration_error", "brier")
"""Metrics that are reported besides the main one, if the objective has them."""


@dataclass(frozen=True, slots=True)
class Newest:
    """Champion and challenger on the newest labelled rows, which neither has learned.

    Attributes:
        rows: Number of rows.
        champion, challenger: Mean losses.
        error: Standard error of their difference, which is paired.
        metrics: Name -> values of the champion and the challenger.

    Reference:
        Calibration error is ECE over ten bins: Naeini et al. 2015, "Obtaining well calibrated probabilities using
        Bayesian binning".
    """

    rows: int
    champion: float
    challenger: float
    error: float
    metrics: dict[str, tuple[float, float]]

    @classmethod
    def of(cls, found: Comparison, objective: Objective) -> Self | None:
        """The means of a comparison; None of no rows.

        Example:
            >>> import torch
            >>> from incr_core.objectives import Binary
            >>> newest = Newest.of(Comparison(torch.tensor([4.0, 2.0, 3.0, 1.0, 1.0]).double()), Binary())
            >>> newest.champion, newest.challenger, newest.change, round(newest.error, 3)
            (0.5, 0.75, 0.25, 0.217)
        """
        rows, champion, challenger, change, squared = found.sums.tolist()
        if not rows:
            return None
        told = {}
        before, after = (
            objective.metrics(metrics.total([one])) if one else {} for one in (found.champion, found.challenger)
        )
        for name in dict.fromkeys((objective.main_metric, *MEASURED)):
            if name in before and name in after:
                told[name] = (before[name], after[name])
        error = math.sqrt(max(squared / rows - (change / rows) ** 2, 0.0) / rows)
        return cls(int(rows), champion / rows, challenger / rows, error, told)

    @property
    def change(self) -> float:
        """By how much the challenger's mean loss is above the champion's."""
        return self.challenger - self.champion

    @property
    def rise(self) -> float:
        """By how much the challenger's calibration error is above the champion's; NaN where there is none."""
        before, after = self.metrics.get("calibration_error", (math.nan, math.nan))
        return after - before

    def described(self) -> str:
        """In words.

        Example:
            >>> Newest(40, 0.5, 0.75, 0.1, {"calibration_error": (0.02, 0.2)}).described()
            'loss 0.75 on 40 rows held back, where the champion has 0.5 (calibration error 0.2, 0.02)'
        """
        before, after = self.metrics.get("calibration_error", (math.nan, math.nan))
        calibration = "" if math.isnan(after) else f" (calibration error {after:.2g}, {before:.2g})"
        loss = f"loss {self.challenger:.4g} on {self.rows:,} rows held back, where the champion has {self.champion:.4g}"
        return loss + calibration

    def document(self) -> dict[str, Any]:
        """Return the entry of the manifest, without metrics that are not known."""
        told = {name: {"champion": one, "challenger": other} for name, (one, other) in self.metrics.items()}
        known = {name: pair for name, pair in told.items() if all(value == value for value in pair.values())}
        return {**asdict(self), "metrics": known}
