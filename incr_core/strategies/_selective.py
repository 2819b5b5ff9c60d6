"""Selective backprop."""

from __future__ import annotations

import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.errors import StrategyError
from incr_core.objectives import Binary, Multiclass
from incr_core.strategies._arguments import not_negative, one_of
from incr_core.strategies._base import Context, Strategy
from incr_core.strategies._traits import Traits
from incr_core.strategies.mechanisms import RecentRanks

__all__ = ["Selective"]

CRITERIA = ["class", "loss", "uncertainty"]


class Selective(Strategy):
    """Learn from each row with a probability that grows with its loss, its uncertainty or the rarity of its class.

        p_i = rank_i ^ beta                      by "loss": among the last `history` losses; by "uncertainty": among the
                                                 entropies of their predictions
        p_i = (rarest share / share of y_i) ^ beta         by "class": shares of the classes among the last rows
        f_i = [drawn with probability p_i] / mean p

    Jiang et al. 2019, "Accelerating deep learning by focusing on the biggest losers" (arXiv 1910.00762), equation 2,
    for the loss. A row not drawn counts nothing in the loss; the others count more, so that a step keeps its size: a
    rank is uniform, so mean p is 1 / (1 + beta). Where few rows are drawn, only they are run backward, after a
    second forward of their own (`RowWeighting`). Where labels are wrong, the largest losses are those of wrong labels:
    then use small_loss.

    beta: how sharply to choose; 0 takes all rows. by: see above. history: rows that ranks and shares are taken among.

    >>> Selective(beta=1.0).extra_repr()
    'beta=1.0, by=loss, history=1024'
    """

    traits = Traits(rowwise=False)

    def __init__(self, beta: float = 1.0, by: str = "loss", history: int = 1024) -> None:
        super().__init__()
        self.beta = not_negative("selective.beta", beta)
        self.by = one_of("selective.by", by, CRITERIA)
        self.history = history
        self.recent = RecentRanks(history, "selective.history")

    def attach(self, ctx: Context) -> None:
        """Check that there are classes where they are needed."""
        if self.by != "loss" and not isinstance(ctx.objective, Binary | Multiclass):
            raise StrategyError(
                f'selective.by: expected the objective binary or multiclass for "{self.by}", '
                f'got {type(ctx.objective).__name__}; choose by "loss"'
            )

    @property
    def keeps(self) -> float:
        """The mean of p; by class it is not known beforehand."""
        return 1.0 if self.by == "class" else 1.0 / (1.0 + self.beta)

    def weigh(self, ctx: Context, batch: Batch, output: Tensor) -> Tensor | None:
        """Draw the rows to learn from."""
        if self.beta == 0 or self.recent.held == 0:
            return None
        chance, mean = self._chance(ctx, batch, output)
        draw = torch.rand(len(chance), generator=ctx.generator, device=chance.device)
        return (draw < chance).to(output.dtype) / mean

    def _chance(self, ctx: Context, batch: Batch, output: Tensor) -> tuple[Tensor, float | Tensor]:
        """How likely each row is learned from, (B,), and how likely one is in the mean."""
        if self.by == "class":
            classes, shares = self.recent.shares()
            rarest = shares.min()
            mean = (shares * (rarest / shares).pow(self.beta)).sum()
            place = torch.searchsorted(classes, batch.targets.long()).clamp(max=len(classes) - 1)
            # A class not held yet is rarer than the rarest.
            share = torch.where(classes[place] == batch.targets, shares[place], rarest)
            return (rarest / share).pow(self.beta), mean
        return self.recent.rank(self._score(ctx, batch, output)).pow(self.beta), 1.0 / (1.0 + self.beta)

    def _score(self, ctx: Context, batch: Batch, output: Tensor) -> Tensor:
        if self.by == "loss":
            losses: Tensor = ctx.objective.rows(output, batch.targets)
            return losses
        p = ctx.objective.predict(output)
        if p.dim() == 1:
            p = torch.stack([p, 1 - p], dim=1)
        entropy: Tensor = torch.special.entr(p).sum(1)
        return entropy

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """Take in what the new rows scored."""
        if self.beta > 0:
            classes = batch.targets if self.by == "class" else None
            scores = torch.zeros(len(batch)) if self.by == "class" else self._score(ctx, batch, output)
            self.recent.add(scores.to(output.device), classes)
