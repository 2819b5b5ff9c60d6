"""Small-loss selection against label noise."""

from __future__ import annotations

from torch import Tensor

from incr_core.batch import Batch
from incr_core.errors import StrategyError
from incr_core.objectives import Multiclass
from incr_core.strategies._arguments import at_least_one, fraction
from incr_core.strategies._base import Context, Strategy
from incr_core.strategies._traits import Traits
from incr_core.strategies.mechanisms import RecentRanks

__all__ = ["SmallLoss"]


class SmallLoss(Strategy):
    """Leave out the rows with the largest losses; under label noise these are mostly mislabelled rows.

        f_i = [rank of l_i among the last `history` losses <= 1 - rate_t] / (1 - rate_t)
        rate_t = rate * min(1, t / warmup)        t: optimiser steps taken

    R(T) in the paper is 1 - rate_t. This is one network instead of two that select for each other. A network learns
    regular patterns before it memorises noise (section 3 of the paper), so the warm-up comes first; rows left out
    return if their loss falls later. Losses are ranked among those of recent rows, not of the batch, so that small
    batches and batches of one class work too.

    Args:
        rate: Expected share of wrong labels, below 1. 0 turns the strategy off.
        warmup: Steps until the full rate applies.
        history: Number of recent losses for the ranks.
        per_class: Rank among rows of the same class, so that a rare class is not mistaken for noise.

    Example:
        >>> SmallLoss(rate=0.2).extra_repr()
        'rate=0.2, warmup=500, history=1024, per_class=False'

    Reference:
        Han et al. 2018, "Co-teaching: robust training of deep neural networks with extremely noisy labels" (arXiv
        1804.06872), algorithm 1.
    """

    traits = Traits(rowwise=False)

    def __init__(self, rate: float = 0.2, warmup: int = 500, history: int = 1024, per_class: bool = False) -> None:
        super().__init__()
        self.rate = fraction("small_loss.rate", rate)
        if rate == 1:
            raise StrategyError("small_loss.rate: expected a share below 1, got 1, which leaves nothing to learn from")
        self.warmup = at_least_one("small_loss.warmup", warmup)
        self.history = history
        self.per_class = per_class
        self.recent = RecentRanks(history, "small_loss.history")

    def attach(self, ctx: Context) -> None:
        """Check that the objective has classes if they are needed."""
        if self.per_class and not isinstance(ctx.objective, Multiclass):
            raise StrategyError(
                f"small_loss.per_class: expected the objective multiclass, got {type(ctx.objective).__name__}; "
                "leave per_class out"
            )

    def weigh(self, ctx: Context, batch: Batch, output: Tensor) -> Tensor | None:
        """Leave out the largest losses."""
        rate = self.rate * min(1.0, ctx.step / self.warmup)
        if rate == 0 or self.recent.held == 0:
            return None
        losses = ctx.objective.rows(output, batch.targets)
        rank = self.recent.rank(losses, batch.targets if self.per_class else None)
        return (rank <= 1 - rate).to(losses.dtype) / (1 - rate)

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """Record the losses of the new rows."""
        if self.rate > 0:
            classes = batch.targets if self.per_class else None
            self.recent.add(ctx.objective.rows(output, batch.targets), classes)
