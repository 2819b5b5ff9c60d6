"""Pruning: a sparsity that grows on a schedule, while the model learns on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.errors import StrategyError
from incr_core.models.adapt import is_pruned
from incr_core.numerics import whole
from incr_core.strategies._arguments import at_least_one, fraction, not_negative
from incr_core.strategies._base import Context, Strategy
from incr_core.strategies._traits import Traits

__all__ = ["Pruning"]

MASK = re.compile(r"(?P<weight>.+\.parametrizations\.weight)\.\d+\.prune_mask")


class Pruning(Strategy):
    """Decide which weights of a model with masks are used, after each increment.

        s_t = s + (s_0 - s) (1 - (t - start) / over)^3        for increment t from `start` to `start + over`, then s
        magnitude:  the share s_t of the smallest |W| is pruned, weights that are pruned already first; W <- W * M
        movement:   the share s_t of the smallest scores S is pruned

    The masks are computed from the merged weights, which are equal everywhere, so that all participants have the same
    masks. Of equal sizes, the weights that come first in the model stay.

    The model must come from `incr_core.models.adapt.magnitude_pruning` or `movement_pruning`. A job states the
    arguments of both in one `[[model.adapt]]`.

    Args:
        sparsity: s, the final share of pruned weights. 0 turns the strategy off.
        initial: s_0, the share at increment `start`.
        start: Increments that are learned before the schedule starts.
        over: Increments until the final share. 1 prunes at once.
        scope: "global": all layers together have the share s_t, so that layers with small weights lose more. "layer":
            each layer has it.

    Example:
        >>> from torch import nn
        >>> from incr_core.learner import Learner
        >>> from incr_core.models.adapt import magnitude_pruning
        >>> from incr_core.objectives import Binary
        >>> model = magnitude_pruning(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)), target="0")
        >>> learner = Learner(model, Binary(), "sgd", [Pruning(sparsity=0.5, over=2)])
        >>> for _ in range(3):
        ...     _ = learner.learn(Batch(torch.randn(8, 4), torch.ones(8)))
        ...     print(int((model[0].weight == 0).sum()))
        7
        8
        8

    Reference:
        Zhu & Gupta 2018, "To prune, or not to prune", section 3; Han et al. 2015; Sanh et al. 2020.
    """

    traits = Traits(shared={"done": "max"}, phases={"end": "measure"})

    done: Tensor

    def __init__(
        self,
        sparsity: float = 0.8,
        initial: float = 0.0,
        start: int = 0,
        over: int = 10,
        scope: Literal["global", "layer"] = "global",
    ) -> None:
        super().__init__()
        self.sparsity = fraction("pruning.sparsity", sparsity)
        self.initial = fraction("pruning.initial", initial)
        self.start = int(not_negative("pruning.start", start))
        self.over = at_least_one("pruning.over", over)
        if self.initial > self.sparsity:
            raise StrategyError(
                f"pruning.initial: expected at most the final sparsity of {sparsity:g}, got {initial:g}; lower it"
            )
        if scope not in ("global", "layer"):
            raise StrategyError(f'pruning.scope: expected "global" or "layer", got {scope!r}')
        self.scope = scope
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    @property
    def off(self) -> bool:
        """Whether no weight is ever pruned."""
        return self.sparsity == 0

    def attach(self, ctx: Context) -> None:
        """Check that the model has masks."""
        if not is_pruned(ctx.model):
            raise StrategyError(
                "pruning: expected a model with masks, got one without; make it with "
                "incr_core.models.adapt.magnitude_pruning, or [[model.adapt]] in a job"
            )

    @torch.no_grad()
    def end(self, ctx: Context, labelled: Batch) -> None:
        """Count the increment."""
        if len(labelled):
            self.done += 1

    def derive(
        self, weights: Mapping[str, Tensor], shared: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Compute the masks, and set pruned weights of magnitude pruning to 0."""
        share = self.share(int(shared["done"])) if "done" in shared else 0.0
        if not share:
            return {}, {}
        names = sorted(name for name in weights if MASK.fullmatch(name))
        groups = [[name] for name in names] if self.scope == "layer" else [names]
        found: dict[str, Tensor] = {}
        for group in groups:
            found |= _pruned(group, weights, share)
        return found, {}

    def share(self, done: int) -> float:
        """Return the share of weights to prune after `done` increments.

        Example:
            >>> [round(Pruning(sparsity=0.8, start=1, over=2).share(done), 3) for done in range(5)]
            [0.0, 0.0, 0.7, 0.8, 0.8]
        """
        if done < self.start or done == 0:
            return 0.0
        left = max(0.0, 1.0 - (done - self.start) / self.over)
        return self.sparsity + (self.initial - self.sparsity) * left**3


def _pruned(names: Sequence[str], weights: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return the masks of these names, and the weights that change, if the smallest `share` of them is pruned."""
    importance = [_importance(name, weights) for name in names]
    flat = torch.cat([value.flatten() for value in importance])
    used = torch.zeros_like(flat, dtype=torch.bool)
    # A stable sort gives the same order on every machine for equal values, which a top-k does not promise.
    order = flat.sort(descending=True, stable=True).indices
    used[order[: len(flat) - int(share * len(flat))]] = True
    masks = torch.split(used, [value.numel() for value in importance])
    found: dict[str, Tensor] = {}
    for name, value, mask in zip(names, importance, masks, strict=True):
        found[name] = mask.reshape(value.shape)
        if _scores(name) not in weights:
            original = _original(name)
            found[original] = whole(weights[original]) * found[name]
    return found


def _importance(mask: str, weights: Mapping[str, Tensor]) -> Tensor:
    """Return what a layer's weights are ranked by: scores, or sizes with -1 for weights that are pruned already."""
    if _scores(mask) in weights:
        return whole(weights[_scores(mask)]).float()
    return torch.where(weights[mask], whole(weights[_original(mask)]).abs().float(), -1.0)


def _original(mask: str) -> str:
    found = MASK.fullmatch(mask)
    assert found is not None
    return f"{found['weight']}.original"


def _scores(mask: str) -> str:
    return mask.removesuffix("prune_mask") + "prune_scores"
