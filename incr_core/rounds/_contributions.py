"""Contributions of the participants to the rounds of an increment, recorded where a server sees all updates."""

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

    Attributes:
        offered: Rows that it had to learn, whether or not it was selected.
        rounds: Number of rounds in which it took part.
        weight: Its share in the mean, averaged over all rounds; NaN if the aggregation is not a mean.
        norm: Distance of its weights from the anchor, |w_i - a|, averaged over its rounds.
        drift: Distance of its weights from the merged weights, |w_i - w|, averaged over its rounds.
        loss: Mean loss over the rows it learned.
        failures: Number of missing or rejected replies.
        failure: Reason of the last failure.
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
    """Contributions by participant number; participants without a part in the increment have none.

    Attributes:
        rounds: Number of rounds.
        norm: Distance of the merged weights from the anchor, |w - a|, averaged over the rounds.
        of: The contributions.
        down, up: Bytes of the tensors sent to, and received from, each participant by its number.

    Example:
        >>> two = [Update({"w": torch.tensor([value])}, rows, {"loss": rows}) for value, rows in ((3.0, 1), (7.0, 3))]
        >>> found = Contributions()
        >>> found.add([4, 9], two, {"w": torch.zeros(1)}, {"w": torch.tensor([6.0])}, {"w": "mean"}, [0.25, 0.75])
        >>> found.of[4].weight, found.of[4].norm, found.of[4].drift, found.of[4].loss, found.norm
        (0.25, 3.0, 3.0, 1.0, 6.0)
    """

    def __init__(self) -> None:
        self.rounds, self.norm = 0, math.nan
        self.of: dict[int, Contribution] = {}
        self.down: dict[int, int] = {}
        self.up: dict[int, int] = {}

    def one(self, participant: int) -> Contribution:
        """Return a participant's contribution, created on first use."""
        return self.of.setdefault(participant, Contribution())

    def failed(self, participant: int, why: str) -> None:
        """Record that a participant's reply is missing or was rejected."""
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
        """Add a round.

        Args:
            participants: Numbers of the participants that learned.
            updates: Their updates.
            anchor: The weights at the start of the round.
            merged: The merged weights.
            rules: Merge rule of each entry.
            shares: Share of each update in the result; None if it is not a mean.
        """
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
    """Return the mean of `count` values, given the mean of the previous ones and the last value."""
    return value if math.isnan(mean) else mean + (value - mean) / count


@torch.no_grad()
def distance(left: Mapping[str, Tensor], right: Mapping[str, Tensor], rules: Mapping[str, str]) -> float:
    """Return the distance between weights, by the entries that merge as a mean.

    Example:
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
