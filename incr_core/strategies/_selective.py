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

        p_i = rank_i ^ beta                                by "loss": rank among the last `history` losses;
                                                           by "uncertainty": rank among the entropies of predictions
        p_i = (rarest share / share of y_i) ^ beta         by "class": shares of the classes among the last rows
        f_i = [drawn with probability p_i] / mean p

    A row that is not drawn has factor 0, and the division by mean p preserves the size of a step. A rank is uniform, so
    mean p is 1 / (1 + beta). If few rows are drawn, only these run backward, after a second forward (`RowWeighting`).
    If labels are noisy, the largest losses belong to wrong labels: use small_loss instead.

    Args:
        beta: Sharpness of the selection. 0 takes all rows.
        by: "loss", "uncertainty" or "class".
        history: Number of recent rows for ranks and shares.

    Example:
        >>> Selective(beta=1.0).extra_repr()
        'beta=1.0, by=loss, history=1024'

    Reference:
        Jiang et al. 2019, "Accelerating deep learning by focusing on the biggest losers" (arXiv 1910.00762), equation
        2, for the loss.
    """

    traits = Traits(rowwise=False)

    def __init__(self, beta: float = 1.0, by: str = "loss", history: int = 1024) -> None:
        super().__init__()
        self.beta = not_negative("selective.beta", beta)
        self.by = one_of("selective.by", by, CRITERIA)
        self.history = history
        self.recent = RecentRanks(history, "selective.history")

    def attach(self, ctx: Context) -> None:
        """Check that the objective has classes if the criterion needs them."""
        if self.by != "loss" and not isinstance(ctx.objective, Binary | Multiclass):
            raise StrategyError(
                f'selective.by: expected the objective binary or multiclass for "{self.by}", '
                f'got {type(ctx.objective).__name__}; choose by "loss"'
            )

    @property
    def keeps(self) -> float:
        """The expected share of the rows that are learned: the mean of p. It is unknown for by="class", which has 1."""
        return 1.0 if self.by == "class" else 1.0 / (1.0 + self.beta)

    def weigh(self, ctx: Context, batch: Batch, output: Tensor) -> Tensor | None:
        """Draw the rows to learn from."""
        if self.beta == 0 or self.recent.held == 0:
            return None
        chance, mean = self._chance(ctx, batch, output)
        draw = torch.rand(len(chance), generator=ctx.generator, device=chance.device)
        return (draw < chance).to(output.dtype) / mean

    def _chance(self, ctx: Context, batch: Batch, output: Tensor) -> tuple[Tensor, float | Tensor]:
        """Return p_i of each row, (B,), and the mean of p."""
        if self.by == "class":
            classes, shares = self.recent.shares()
            rarest = shares.min()
            mean = (shares * (rarest / shares).pow(self.beta)).sum()
            place = torch.searchsorted(classes, batch.targets.long()).clamp(max=len(classes) - 1)
            # A class not seen yet gets the smallest share held.
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
        """Record the scores of the new rows."""
        if self.beta > 0:
            classes = batch.targets if self.by == "class" else None
            scores = torch.zeros(len(batch)) if self.by == "class" else self._score(ctx, batch, output)
            self.recent.add(scores.to(output.device), classes)
