"""Detection of implausibly large updates, which would outweigh all others in a mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import torch
from torch import Tensor

from incr_core.numerics import as_reals, widened
from incr_core.update import Update

__all__ = ["outsized"]

LARGEST = 5.0
"""Maximum ratio of an update's distance to the median distance."""

_LEAST = 3
"""Minimum number of updates for a comparison."""

_KINDS = {"mean": "weights", "average": "running statistics", "sum": "running sums"}
"""Merge rule -> the entries with this rule, for messages."""


@torch.no_grad()
def outsized(
    updates: Sequence[Update], anchor: Mapping[str, Tensor], rules: Mapping[str, str], largest: float = LARGEST
) -> dict[int, str]:
    """Return the places of updates that are too large, with the reason.

    The distance of an update from the anchor is compared with the median distance of the round's updates:

        |w_i - a|  <=  largest * median_j |w_j - a| * max(1, rows_i / median_j rows_j)

    for weights, running statistics and running sums separately. For the first two, the median covers the updates that
    have moved at all. A participant with more rows takes more steps, and its bound grows in proportion. With fewer than
    three updates none is rejected. The check detects faults rather than attacks: many updates just below the bound
    still move the mean.

    Args:
        updates: The updates of a round.
        anchor: The anchor.
        rules: Merge rule of each entry.
        largest: The factor of the bound.

    Example:
        >>> moved = [Update({"w": torch.tensor([value])}, num_rows=10) for value in (1.0, -1.2, 0.9, 30.0)]
        >>> outsized(moved, {"w": torch.zeros(1)}, {"w": "mean"})
        {3: 'weights moved by 30, where the median is 1.1; at most 5.5 is accepted for 10 rows'}
    """
    counted = [place for place, update in enumerate(updates) if update.num_rows > 0]
    if len(counted) < _LEAST:
        return {}
    found: dict[int, str] = {}
    usual_rows = median(updates[place].num_rows for place in counted)
    for rule, kind in _KINDS.items():
        moved = {place: _distance(updates[place], anchor, rules, rule) for place in counted}
        # If all others add nothing to a sum, no addition is accepted.
        usual = median([distance for distance in moved.values() if distance or rule == "sum"] or [0.0])
        for place, distance in moved.items():
            rows = updates[place].num_rows
            most = largest * usual * max(1.0, rows / usual_rows)
            if distance > most:
                told = f"where the median is {usual:.3g}; at most {most:.3g} is accepted for {rows:,} rows"
                found.setdefault(place, f"{kind} moved by {distance:.3g}, {told}")
    return found


def _distance(update: Update, anchor: Mapping[str, Tensor], rules: Mapping[str, str], rule: str) -> float:
    """Return the distance of an update from the anchor, by the entries with a merge rule."""
    square = 0.0
    for name, value in update.weights.items():
        if rules.get(name, "mean") == rule:
            difference = as_reals(widened(value)).double() - as_reals(widened(anchor[name])).double()
            square += float(difference.square().sum())
    return float(square**0.5)
