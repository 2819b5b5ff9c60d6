"""Aggregation of the updates of a round: the weighted mean, and robust alternatives against hostile updates.

Robust aggregations compare all updates of a round. They therefore need a server that holds all updates, and do not suit
workers that exchange sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from incr_core.errors import ArgumentError
from incr_core.numerics import as_reals, narrowed, widened
from incr_core.update import BLOCK, Update, Weights, mean, merge, merge_shared, shares

__all__ = ["Aggregation", "Krum", "Median", "MultiKrum", "TrimmedMean", "WeightedMean", "distances"]


class Aggregation:
    """Base class of the aggregations: from the updates of a round to the input of the outer step.

    Updates without rows are skipped. The result without updates is the anchor.

    Attributes:
        of_clients: Names of arguments that default to those of the clients' optimiser.
        moves_alone: Whether weights change even if no client has learned.
    """

    of_clients: ClassVar[tuple[str, ...]] = ()
    moves_alone: ClassVar[bool] = False

    def merge(self, updates: Sequence[Update], anchor: Mapping[str, Tensor], rules: Mapping[str, str]) -> Weights:
        """Return the merged weights of all updates, each entry by its merge rule."""
        raise NotImplementedError

    def shares(self, updates: Sequence[Update]) -> list[float] | None:
        """Return the weight of each update, if the result is a mean, or None."""
        return None

    def merge_shared(
        self,
        states: Sequence[Mapping[str, Tensor]],
        rows: Sequence[int],
        rules: Mapping[str, str],
        anchor: Mapping[str, Tensor],
    ) -> Weights:
        """Return the merged strategy state of all clients. If no client learned a row, all count equally."""
        counts = rows if any(rows) else [1] * len(rows)
        updates = [Update(dict(state), count) for state, count in zip(states, counts, strict=True)]
        return {name: value.clone() for name, value in self.merge(updates, anchor, rules).items()}


class WeightedMean(Aggregation):
    """The mean, weighted by rows: FedAvg (McMahan et al. 2017). A single hostile update can move it arbitrarily.

    Example:
        >>> two = [Update({"w": torch.tensor([1.0])}, num_rows=1), Update({"w": torch.tensor([5.0])}, num_rows=3)]
        >>> WeightedMean().merge(two, {}, {"w": "mean"})
        {'w': tensor([4.])}
    """

    def merge(self, updates: Sequence[Update], anchor: Mapping[str, Tensor], rules: Mapping[str, str]) -> Weights:
        """Return `update.mean` of the updates."""
        return mean(updates, anchor, rules)

    def shares(self, updates: Sequence[Update]) -> list[float] | None:
        """Return the shares by rows."""
        rows = [update.num_rows for update in updates]
        return shares(rows) if any(rows) else [0.0] * len(rows)

    def merge_shared(
        self,
        states: Sequence[Mapping[str, Tensor]],
        rows: Sequence[int],
        rules: Mapping[str, str],
        anchor: Mapping[str, Tensor],
    ) -> Weights:
        """Return `update.merge_shared` of the states."""
        return merge_shared(states, rows, rules, anchor)


class TrimmedMean(Aggregation):
    """For each element, the mean without the largest and smallest values.

            of n values v_(1) <= ... <= v_(n):    mean of v_(k+1) ... v_(n-k),    k = min(ceil(share n), (n - 1) // 2)

    Every client counts equally, regardless of its stated rows. Entries that merge by "sum" move by n times the trimmed
    mean of the clients' additions; "max" stays the maximum.

    Args:
        share: Maximum fraction of hostile clients.

    Example:
        >>> four = [Update({"w": torch.tensor([value])}, num_rows=1) for value in (1.0, 2.0, 3.0, -90.0)]
        >>> TrimmedMean(0.25).merge(four, {}, {"w": "mean"})
        {'w': tensor([1.5000])}

    Reference:
        Yin et al. 2018, arXiv:1803.01498, definition 2.
    """

    def __init__(self, share: float = 0.2) -> None:
        _check_share(share)
        self.share = share

    def merge(self, updates: Sequence[Update], anchor: Mapping[str, Tensor], rules: Mapping[str, str]) -> Weights:
        """Return the trimmed mean of each entry."""

        def trimmed(values: Tensor) -> Tensor:
            trim = _hostile(self.share, len(values))
            kept = values.sort(0).values[trim : len(values) - trim]
            return kept[0] + (kept - kept[0]).mean(0)  # values that are equal everywhere stay exact

        return _by_number(updates, anchor, rules, trimmed)


class Median(Aggregation):
    """For each element, the median; for an even count, the mean of the middle two.

    It is correct while fewer than half of the clients are hostile. Every client counts equally; see `TrimmedMean`.

    Example:
        >>> three = [Update({"w": torch.tensor([value])}, num_rows=1) for value in (1.0, 2.0, -90.0)]
        >>> Median().merge(three, {}, {"w": "mean"})
        {'w': tensor([1.])}

    Reference:
        Yin et al. 2018, arXiv:1803.01498, definition 1.
    """

    def merge(self, updates: Sequence[Update], anchor: Mapping[str, Tensor], rules: Mapping[str, str]) -> Weights:
        """Return the median of each entry."""

        def median(values: Tensor) -> Tensor:
            middle = len(values) // 2
            ordered = values.sort(0).values
            return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

        return _by_number(updates, anchor, rules, median)


class Krum(Aggregation):
    """The mean of the `keep` updates with the nearest neighbours.

        score_i = sum of the squared distances from w_i to the n - f - 2 nearest others,
        f = min(ceil(share n), (n - 1) // 2)

    Distances are between weights that merge by "mean". The updates with the smallest scores are kept, and weighted by
    rows. Entries with other merge rules are merged as by `Median`, because a client with close weights may still send
    false values there. Fewer than three updates have no neighbours to compare; the result is then the mean of all. The
    paper requires n >= 2 f + 3.

    Args:
        share: Maximum fraction of hostile clients.
        keep: Number of updates to keep; 1 is Krum. None keeps all but f, which is Multi-Krum.

    Example:
        >>> three = [Update({"w": torch.tensor([value])}, num_rows=1) for value in (1.0, 2.0, -90.0)]
        >>> Krum(0.34).merge(three, {}, {"w": "mean"})
        {'w': tensor([1.])}

    Reference:
        Blanchard et al. 2017, Krum and Multi-Krum.
    """

    def __init__(self, share: float = 0.2, keep: int | None = 1) -> None:
        _check_share(share)
        if keep is not None and keep < 1:
            raise ArgumentError(f"aggregation.keep: expected at least 1, got {keep!r}")
        self.share, self.keep = share, keep

    def merge(self, updates: Sequence[Update], anchor: Mapping[str, Tensor], rules: Mapping[str, str]) -> Weights:
        """Return the mean of the kept updates."""
        counted = [update for update in updates if update.num_rows > 0]
        merged = mean([counted[place] for place in self.kept(counted, rules)], anchor, rules)
        others = Median().merge(counted, anchor, rules)
        return {name: value if rules.get(name, "mean") == "mean" else others[name] for name, value in merged.items()}

    def kept(self, updates: Sequence[Update], rules: Mapping[str, str]) -> list[int]:
        """Return the places of the kept updates, in order."""
        count = len(updates)
        if count < 3:
            return list(range(count))
        hostile = _hostile(self.share, count)
        nearest = max(1, count - hostile - 2)
        apart = distances(updates, rules).square()
        apart.fill_diagonal_(torch.inf)
        scores = apart.sort(1).values[:, :nearest].sum(1)
        keep = min(count, self.keep) if self.keep is not None else count - hostile
        return sorted(scores.argsort(stable=True)[:keep].tolist())


class MultiKrum(Krum):
    """`Krum` that keeps all but the fraction of clients that may be hostile."""

    def __init__(self, share: float = 0.2) -> None:
        super().__init__(share, None)


def distances(updates: Sequence[Update], rules: Mapping[str, str]) -> Tensor:
    """Return the pairwise distances of updates by the weights that merge by "mean", float64 (n, n).

    Example:
        >>> two = [Update({"w": torch.tensor([0.0, 3.0])}, 1), Update({"w": torch.tensor([4.0, 0.0])}, 1)]
        >>> distances(two, {"w": "mean"})
        tensor([[0., 5.],
                [5., 0.]], dtype=torch.float64)
    """
    squares = torch.zeros(len(updates), len(updates), dtype=torch.float64)
    for name in updates[0].weights if updates else ():
        if rules.get(name, "mean") == "mean":
            for block in _blocks([widened(update.weights[name]) for update in updates]):
                # Not by matrix products, whose rounding error exceeds the distance of near neighbours.
                squares += torch.cdist(block, block, compute_mode="donot_use_mm_for_euclid_dist").square().cpu()
    return squares.sqrt()


def _by_number(
    updates: Sequence[Update],
    anchor: Mapping[str, Tensor],
    rules: Mapping[str, str],
    centre: Callable[[Tensor], Tensor],
) -> Weights:
    """Merge every element independently. `centre` maps values (n, elements) to (elements,)."""
    counted = [update for update in updates if update.num_rows > 0]
    if not counted:
        return dict(anchor)
    merged: Weights = {}
    for name, first in counted[0].weights.items():
        rule = rules.get(name, "mean")
        if rule == "max":
            merged[name] = merge([update.weights[name] for update in counted], [], rule, None)
            continue
        values = [widened(update.weights[name]) for update in counted]
        if rule == "sum":
            start = widened(anchor[name])
            added = _centre([value - start for value in values], centre)
            found = as_reals(start).double() + len(values) * added
        else:
            found = _centre(values, centre)
        merged[name] = narrowed(_as(found, values[0]), first.dtype)
    return merged


def _centre(values: Sequence[Tensor], centre: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `centre` to each element of values of one shape; float64, complex numbers as pairs."""
    shape = as_reals(values[0]).shape
    parts = [centre(block) for block in _blocks(values)]
    return torch.cat(parts).view(shape) if parts else torch.zeros(shape, dtype=torch.float64)


def _blocks(values: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield values of one shape stacked, float64 (n, elements), in blocks that fit a processor's cache."""
    flat = [as_reals(value).flatten() for value in values]
    for column in zip(*(torch.split(part, max(1, BLOCK // len(values))) for part in flat), strict=True):
        if column[0].numel():
            yield torch.stack(column).double()


def _as(reals: Tensor, like: Tensor) -> Tensor:
    """Convert float64 results to the dtype of `like`."""
    if like.is_complex():
        return torch.view_as_complex(reals.to(as_reals(like).dtype))
    return reals.to(like.dtype) if like.is_floating_point() else reals.round().to(like.dtype)


def _hostile(share: float, count: int) -> int:
    """Return the maximum number of hostile clients among `count`.

    Example:
        >>> _hostile(0.2, 4), _hostile(0.28, 25), _hostile(0.4, 3)
        (1, 7, 1)
    """
    return min(math.ceil(share * count - 1e-9), (count - 1) // 2)  # 0.28 * 25 is slightly more than 7


def _check_share(share: float) -> None:
    if not 0 <= share < 0.5:
        raise ArgumentError(
            f"aggregation.share: expected a number from 0 to below 0.5, got {share!r}; where half of the clients are "
            "hostile no aggregation helps"
        )
