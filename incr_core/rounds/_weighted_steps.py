"""Aggregations that step from the anchor by a weighted sum of the clients' changes: FedNova, q-FedAvg and FedExP.

    w = a + sum_i c_i (w_i - a)         for entries that merge by "mean"; others merge as in the mean by rows

With c_i = rows_i / rows this would be the mean. Each aggregation defines other c_i, from the clients' reports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from incr_core.errors import ArgumentError
from incr_core.numerics import as_reals, narrowed, widened
from incr_core.rounds._aggregation import Aggregation, WeightedMean
from incr_core.update import Update, Weights, mean, merge_shared, shares

__all__ = ["FedExP", "FedNova", "QFedAvg"]


class FedNova(WeightedMean):
    """Normalise the clients' changes by their numbers of steps, so that clients with more steps do not dominate.

        c_i = p_i t / t_i        t = sum_i p_i t_i,        p_i = rows_i / rows

    t_i are the optimiser steps of client i. With heavy-ball momentum rho its last steps count less: t_i = (s - rho (1 -
    rho^s) / (1 - rho)) / (1 - rho) for s steps, if momentum starts at zero. If all took the same number of steps, the
    result is the mean by rows, bit for bit.

    Args:
        momentum: Momentum of the clients' optimiser; in a job, that of `learner.optimizer`.

    Example:
        >>> two = [Update({"w": torch.tensor([4.0])}, num_rows=1), Update({"w": torch.tensor([2.0])}, num_rows=1)]
        >>> two[0].steps, two[1].steps = 4, 1
        >>> FedNova().merge(two, {"w": torch.zeros(1)}, {"w": "mean"})  # 2.5 / 2 * (4 / 4 + 2 / 1)
        {'w': tensor([3.7500])}

    Reference:
        Wang et al. 2020, arXiv:2007.07481, equations 6 and 10.
    """

    of_clients = ("momentum",)

    def __init__(self, momentum: float = 0.0) -> None:
        if not 0 <= momentum < 1:
            raise ArgumentError(f"aggregation.momentum: expected a number from 0 to below 1, got {momentum!r}")
        self.momentum = momentum

    def length(self, steps: int) -> float:
        """Return the equivalent number of plain steps.

        Example:
            >>> FedNova(momentum=0.5).length(2)  # the first counts 1 + 0.5, the second 1
            2.5
        """
        rho = self.momentum
        return (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)

    def shares(self, updates: Sequence[Update]) -> list[float] | None:
        """Return the shares by rows if the result is their mean."""
        return super().shares(updates) if _alike([update for update in updates if update.num_rows > 0]) else None

    def merge(self, updates: Sequence[Update], anchor: Mapping[str, Tensor], rules: Mapping[str, str]) -> Weights:
        """Return the step, or the mean by rows if a client does not report its steps, as after a review."""
        counted = [update for update in updates if update.num_rows > 0]
        if _alike(counted):
            return mean(counted, anchor, rules)
        lengths = [self.length(update.steps) for update in counted]
        p = shares([update.num_rows for update in counted])
        common = sum(share * length for share, length in zip(p, lengths, strict=True))
        factors = [share * common / length for share, length in zip(p, lengths, strict=True)]
        return _stepped(counted, factors, anchor, rules)


class QFedAvg(Aggregation):
    """Weigh clients by their loss, so that performance becomes more uniform.

        c_i = L F_i^q / sum_j h_j        h_j = q F_j^(q - 1) |L (a - w_j)|^2 + L F_j^q        L = 1 / lr

    F_i is the mean loss of client i over the rows it learned, during learning. With q = 0 it is the unweighted mean of
    the clients.

    Args:
        q: Exponent of the loss.
        lr: The clients' learning rate; in a job, that of `learner.optimizer`.

    Example:
        >>> two = [Update({"w": torch.tensor([value])}, 1, {"loss": loss}) for value, loss in ((1.0, 1.0), (-1.0, 3.0))]
        >>> round(float(QFedAvg(q=1.0, lr=1.0).merge(two, {"w": torch.zeros(1)}, {})["w"]), 4)  # (1 - 3) / (2 + 4)
        -0.3333

    Reference:
        Li et al. 2020, arXiv:1905.10497, algorithm 2.
    """

    of_clients = ("lr",)

    def __init__(self, q: float = 0.1, lr: float | None = None) -> None:
        if q < 0:
            raise ArgumentError(f"aggregation.q: expected a number of at least 0, got {q!r}")
        if lr is None or not lr > 0:
            raise ArgumentError(f"aggregation.lr: expected the clients' learning rate, above 0, got {lr!r}; set it")
        self.q, self.lr = q, lr

    def merge(self, updates: Sequence[Update], anchor: Mapping[str, Tensor], rules: Mapping[str, str]) -> Weights:
        """Return the step, or the mean by rows of changes by strategies, which have no loss."""
        counted = [update for update in updates if update.num_rows > 0]
        if not counted:
            return dict(anchor)
        if not all("loss" in update.losses for update in counted):
            return mean(counted, anchor, rules)
        factors, total = [], 0.0
        for update in counted:
            loss = max(update.losses.get("loss", 0.0) / update.num_rows, 0.0) + 1e-10
            factors.append(loss**self.q / self.lr)
            total += self.q * loss ** (self.q - 1) * _square(update, anchor, rules) / self.lr**2 + factors[-1]
        if not math.isfinite(total):
            return dict(anchor)
        return _stepped(counted, [factor / total for factor in factors], anchor, rules)

    def merge_shared(
        self,
        states: Sequence[Mapping[str, Tensor]],
        rows: Sequence[int],
        rules: Mapping[str, str],
        anchor: Mapping[str, Tensor],
    ) -> Weights:
        """Return `update.merge_shared` of the states, which have no loss."""
        return merge_shared(states, rows, rules, anchor)


class FedExP(WeightedMean):
    """Step further than the mean by as much as the clients' changes differ.

        c_i = e p_i        e = max(1, sum_i p_i |w_i - a|^2 / (2 |sum_i p_i (w_i - a)|^2))        p_i = rows_i / rows

    The mean of many different changes is much shorter than each of them, so that the model moves less than with all
    rows in one place. If all changes are equal, e = 1 and the result is the mean, bit for bit.

    Example:
        >>> three = [Update({"w": change}, 1) for change in 4.0 * torch.eye(3)]
        >>> FedExP().merge(three, {"w": torch.zeros(3)}, {"w": "mean"})  # e = 16 / (2 * 16 / 3)
        {'w': tensor([2., 2., 2.])}

    Reference:
        Jhunjhunwala et al. 2023, arXiv:2301.09604, equation 7, with clients weighted by rows.
    """

    def shares(self, updates: Sequence[Update]) -> list[float] | None:
        """Return None: the result is no mean."""
        return None

    def merge(self, updates: Sequence[Update], anchor: Mapping[str, Tensor], rules: Mapping[str, str]) -> Weights:
        """Return the step."""
        counted = [update for update in updates if update.num_rows > 0]
        merged = mean(counted, anchor, rules)
        if len(counted) < 2:
            return merged
        p = shares([update.num_rows for update in counted])
        apart = sum(share * _square(update, anchor, rules) for share, update in zip(p, counted, strict=True))
        together = _square(Update(merged, 1), anchor, rules)
        factor = apart / (2 * together) if together else 1.0
        if not (1.0 < factor < math.inf):
            return merged
        return _stepped(counted, [factor * share for share in p], anchor, rules)


def _alike(updates: Sequence[Update]) -> bool:
    """Whether all took the same number of steps, or a client does not report its steps."""
    return len({update.steps for update in updates}) < 2 or not all(update.steps for update in updates)


@torch.no_grad()
def _stepped(
    updates: Sequence[Update], factors: Sequence[float], anchor: Mapping[str, Tensor], rules: Mapping[str, str]
) -> Weights:
    """Return a + sum_i c_i (w_i - a), added in order."""
    moved = [name for name in updates[0].weights if rules.get(name, "mean") == "mean"]
    others = [
        Update({name: value for name, value in update.weights.items() if name not in moved}, update.num_rows)
        for update in updates
    ]
    merged = mean(others, anchor, rules)
    for name in moved:
        start = widened(anchor[name])
        total = start
        for update, factor in zip(updates, factors, strict=True):
            total = total + factor * (widened(update.weights[name]) - start)
        merged[name] = narrowed(total, updates[0].weights[name].dtype)
    return {name: merged[name] for name in updates[0].weights}


def _square(update: Update, anchor: Mapping[str, Tensor], rules: Mapping[str, str]) -> float:
    """Return |a - w_i|^2 over the entries that merge by "mean"."""
    apart = [
        as_reals(widened(value)).double() - as_reals(widened(anchor[name])).double()
        for name, value in update.weights.items()
        if rules.get(name, "mean") == "mean"
    ]
    return sum(float(difference.square().sum()) for difference in apart)
