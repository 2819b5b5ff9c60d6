"""Updates, the contributions of learners to a round, and their mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from incr_core.errors import ArgumentError
from incr_core.numerics import narrowed, widened

__all__ = ["Update", "Weights", "mean", "merge", "merge_shared", "shares"]

Weights = dict[str, Tensor]

BLOCK = 1 << 17
"""Number of elements merged at a time, small enough for the processor's cache."""


class Update:
    """One learner's contribution to a round.

    Args:
        weights: Parameters and buffers by name, after learning; they may be views of the live model. A function that
            returns them defers gathering until they are read, which in online learning may never happen.
        num_rows: Number of rows learned; determines the share in the mean.
        losses: Sum of each loss term over rows, by name, for the log.

    Attributes:
        steps: Number of optimiser steps taken, if known, otherwise 0.
    """

    __slots__ = ("_weights", "losses", "num_rows", "steps")

    def __init__(
        self, weights: Weights | Callable[[], Weights], num_rows: int, losses: Mapping[str, float] | None = None
    ) -> None:
        self._weights = weights
        self.num_rows = num_rows
        self.losses = dict(losses or {})
        self.steps = 0

    @property
    def weights(self) -> Weights:
        """Parameters and buffers by name."""
        if callable(self._weights):
            self._weights = self._weights()
        return self._weights


def shares(rows: Sequence[int]) -> list[float]:
    """Return p_i = rows_i / rows, each learner's share in the mean.

    Example:
        >>> shares([1, 3])
        [0.25, 0.75]
    """
    total = sum(rows)
    return [count / total for count in rows]


@torch.no_grad()
def mean(
    updates: Sequence[Update], anchor: Mapping[str, Tensor], rules: Mapping[str, str], out: Mapping[str, Tensor] = {}
) -> Weights:
    """Merge updates into one set of weights: sum_i p_i w_i for "mean", in the given order (see `merge`).

    Updates without rows are skipped. Every engine performs the same arithmetic in the same order, so equal updates give
    equal bits on all engines. A single update is returned unchanged, and the mean of none is the anchor.

    Args:
        updates: The updates.
        anchor: The weights from which all learners started the round.
        rules: Merge rule of each entry, by name; "mean" by default.
        out: Tensors to write the result to, by name; see `merge`.

    Example:
        >>> two = [Update({"w": torch.tensor([1.0])}, num_rows=1), Update({"w": torch.tensor([5.0])}, num_rows=3)]
        >>> mean(two, {}, {"w": "mean"})
        {'w': tensor([4.])}
    """
    updates = [update for update in updates if update.num_rows > 0]
    if len(updates) == 1:
        return updates[0].weights
    if not updates:
        return dict(anchor)
    p = shares([update.num_rows for update in updates])
    merged: Weights = {}
    for name in updates[0].weights:
        values = [update.weights[name] for update in updates]
        merged[name] = merge(values, p, rules.get(name, "mean"), anchor.get(name), out.get(name))
    return merged


@torch.no_grad()
def merge(
    values: Sequence[Tensor], p: Sequence[float], rule: str, anchor: Tensor | None, out: Tensor | None = None
) -> Tensor:
    """Merge the values of one entry by its rule: "mean" or "average", "sum" (of the additions to the anchor) or "max".

        mean = v_1 + sum_i p_i (v_i - v_1)        over i with p_i > 0; sum_i p_i = 1
        sum  = a + sum_i (v_i - a)

    The mean is computed relative to the first value, so that values that are equal everywhere, such as frozen weights,
    stay unchanged; sum_i p_i v would often round to a neighbouring number. Products are rounded before they are added.
    Dtypes without arithmetic in torch, such as float8 and unsigned integers, are merged in a wider dtype
    (`dtypes.widened`).

    Args:
        values: The values, one per learner.
        p: Their shares.
        rule: The merge rule.
        anchor: The anchor's value; needed for "sum".
        out: Tensor to write the result to; it may be one of the values.

    Returns:
        The result; `out` if given.

    Example:
        >>> one, two = torch.tensor([11.0]), torch.tensor([13.0])
        >>> merge([one, two], [0.5, 0.5], "sum", torch.tensor([10.0]))
        tensor([14.])
    """
    used = [*values, anchor] if rule == "sum" and anchor is not None else [*values]

    def merged(parts: Sequence[Tensor], place: Tensor | None) -> Tensor:
        count = len(values)
        return _merged(parts[:count], p, rule, parts[count] if len(parts) > count else None, place)

    if out is None:
        if values[0].numel() <= BLOCK:
            return merged(used, None)
        out = torch.empty_like(values[0])
    if all(each.is_contiguous() for each in (out, *used)):
        for place, *block in zip(*(torch.split(each.view(-1), BLOCK) for each in (out, *used)), strict=True):
            place.copy_(merged(block, place))
    else:
        out.copy_(merged(used, out))
    return out


def _merged(
    values: Sequence[Tensor], p: Sequence[float], rule: str, anchor: Tensor | None, out: Tensor | None
) -> Tensor:
    """Merge values in the dtype of the arithmetic; the last operation writes to `out` if that has this dtype."""
    dtype = values[0].dtype
    values = [widened(value) for value in values]
    if values[0].dtype != dtype:
        merged = _merged_wide(values, p, rule, None if anchor is None else widened(anchor), None)
        return narrowed(merged, dtype)
    return _merged_wide(values, p, rule, anchor, out)


def _merged_wide(
    values: Sequence[Tensor], p: Sequence[float], rule: str, anchor: Tensor | None, out: Tensor | None
) -> Tensor:
    if rule == "max":
        result = values[0]
        for value in values[1:]:
            result = torch.maximum(result, value)
        return result
    if rule == "sum":
        if anchor is None:
            raise ArgumentError("merge: the rule 'sum' needs the anchor that the participants started from; pass it")
        return _added(anchor, (torch.sub(value, anchor) for value in values), out)
    if rule not in ("mean", "average"):
        raise ArgumentError(f"merge: expected the rule mean, average, sum or max, got {rule!r}")
    first, *others = [(value, share) for value, share in zip(values, p, strict=True) if share > 0]
    return _added(first[0], (torch.sub(value, first[0]).mul_(share) for value, share in others), out)


def _added(start: Tensor, steps: Iterable[Tensor], out: Tensor | None) -> Tensor:
    """Return start + step + step ..., in order, reusing the memory of the steps; the last sum is written to `out` if
    given.
    """
    total, last = start, None
    for step in steps:
        total, last = start if last is None else torch.add(total, last, out=last), step
    return start.clone() if last is None else torch.add(total, last, out=last if out is None else out)


def merge_shared(
    states: Sequence[Mapping[str, Tensor]],
    rows: Sequence[int],
    rules: Mapping[str, str],
    anchor: Mapping[str, Tensor],
    out: Mapping[str, Tensor] = {},
) -> Weights:
    """Merge the strategy state that participants share, weighted by the rows each learned.

    If no participant learned a row, all have equal weight.

    Args:
        states: Shared state of each participant, by name.
        rows: Rows that each participant learned.
        rules: Merge rule of each entry.
        anchor: Previous common value of the entries that merge by "sum".
        out: Tensors to write the result to, by name; see `merge`.

    Example:
        >>> merge_shared([{"0.f": torch.ones(1)}, {"0.f": torch.zeros(1)}], [1, 3], {"0.f": "mean"}, {})
        {'0.f': tensor([0.2500])}
    """
    p = shares(rows if any(rows) else [1] * len(rows))
    return {
        name: merge([state[name] for state in states], p, rules[name], anchor.get(name), out.get(name))
        for name in states[0]
    }
