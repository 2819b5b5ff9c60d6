"""What each participant has contributed to the rounds of an increment, where a server sees all updates side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from incr_core.numerics import as_reals, widened
from incr_core.update import Update, Weights

__all__ = ["Contribution", "Contributions", "distance"]


@dataclass(slots=True)
class Contribution:
    """One participant's part in an increment.

    offered: rows that it had to learn, whether it was asked to or not. rounds: in which it took part.
    weight: its share in the mean, over all rounds; NaN where the aggregation gives none. norm: how far it moved the
    weights, |w_i - a|, and drift: how far that is from where all went, |w_i - w|, each a mean over its rounds.
    loss: the mean loss over rows learned. failures: answers that did not come, or were left out, and why the last was.
    """

    offered: int = 0
    rounds: int = 0
    weight: float = 0.0
    norm: float = math.nan
    drift: float = math.nan
    loss: float = math.nan
    failures: int = 0
    failure: str = ""


class Contributions:
    """Those of all participants, by their number; of who had nothing to do with the increment there is none.

    rounds: how many there were. norm: how far all went together, |w - a|, a mean over the rounds.

    >>> two = [Update({"w": torch.tensor([value])}, rows, {"loss": rows}) for value, rows in ((3.0, 1), (7.0, 3))]
    >>> found = Contributions()
    >>> found.add([4, 9], two, {"w": torch.zeros(1)}, {"w": torch.tensor([6.0])}, {"w": "mean"}, [0.25, 0.75])
    >>> found.of[4].weight, found.of[4].norm, found.of[4].drift, found.of[4].loss, found.norm
    (0.25, 3.0, 3.0, 1.0, 6.0)
    """

    def __init__(self) -> None:
        self.rounds, self.norm = 0, math.nan
        self.of: dict[int, Contribution] = {}

    def one(self, participant: int) -> Contribution:
        """A participant's, to be added to."""
        return self.of.setdefault(participant, Contribution())

    def failed(self, participant: int, why: str) -> None:
        """An answer of a participant did not come, or was left out."""
        one = self.one(participant)
        one.failures, one.failure = one.failures + 1, why

    def add(
        self,
        participants: Sequence[int],
        updates: Sequence[Update],
        anchor: Mapping[str, Tensor],
        merged: Weights,
        rules: Mapping[str, str],
        shares: Sequence[float] | None,
    ) -> None:
        """Add a round: who learned, what, from where, and what was made of it with which share of each."""
        self.rounds += 1
        self.norm = _joined(self.norm, distance(merged, anchor, rules), self.rounds)
        weights = [math.nan] * len(updates) if shares is None else shares
        for one in self.of.values():
            one.weight -= one.weight / self.rounds
        for participant, update, weight in zip(participants, updates, weights, strict=True):
            one = self.one(participant)
            one.rounds += 1
            one.weight += weight / self.rounds
            if update.num_rows:
                one.norm = _joined(one.norm, distance(update.weights, anchor, rules), one.rounds)
                one.drift = _joined(one.drift, distance(update.weights, merged, rules), one.rounds)
                one.loss = _joined(one.loss, update.losses.get("loss", math.nan) / update.num_rows, one.rounds)


def _joined(mean: float, value: float, count: int) -> float:
    """The mean of `count` values, of which this is the last."""
    return value if math.isnan(mean) else mean + (value - mean) / count


@torch.no_grad()
def distance(left: Mapping[str, Tensor], right: Mapping[str, Tensor], rules: Mapping[str, str]) -> float:
    """How far weights are from others, by what merges as a mean.

    >>> distance({"w": torch.tensor([3.0, 4.0])}, {"w": torch.zeros(2)}, {"w": "mean"})
    5.0
    """
    return math.hypot(
        *(
            float(torch.dist(as_reals(widened(value)), as_reals(widened(right[name]))))
            for name, value in left.items()
            if rules.get(name, "mean") == "mean"
        )
    )
