"""Ranking objective: two towers and the inner product of their outputs."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from incr_core import metrics
from incr_core._util import at_least_one, one_of, positive
from incr_core.metrics import Statistics
from incr_core.objectives._base import Objective

__all__ = ["Ranking"]


class Ranking(Objective):
    """Rank the item of a query above the items of the other rows of its batch.

        output_i = [u_i | v_i], D numbers for the query and D for the item;  s_ij = u_i . v_j / temperature
        softmax    l_i = -log( exp(s_ii) / sum_j exp(s_ij) )
        bpr        l_i = mean over j != i of -log sigmoid(s_ii - s_ij)

    "softmax" is used without the bias correction of its paper. Targets (B,) are the relevance of the item; a row of
    relevance 0 has no loss, and its item is a candidate like the others. An item with the same vector as the row's own
    is the same item, and not a candidate.

    The loss depends on the other rows of the batch. Larger batches give harder questions, and `accumulate` does not
    combine several batches into one.

    If the model reports the position of an item in the whole catalogue (`TwoTower` with `ranks`), a prediction is
    (B, 6): the score of the row's own item, followed by that position. Recall and NDCG are those of the full ranking.
    Those of a ranking by the number of times an item was seen are reported too ("popularity recall@10"). Items that the
    user has seen before are ranked as well.

    Otherwise a prediction is (B, 1 + candidates): the score of the row's own item, followed by those of the next rows'
    items, cyclically. Recall and NDCG rank the first among all. They are means over relevant rows, and higher than for
    a ranking of the whole catalogue (Krichene & Rendle 2020).

    Args:
        dimension: D.
        loss: "softmax" or "bpr".
        temperature: Divisor of the scores.
        candidates: Number of candidates in a prediction.

    Example:
        >>> objective = Ranking(dimension=1)
        >>> output = torch.tensor([[1.0, 3.0], [-1.0, -3.0]])
        >>> objective.rows(output, torch.ones(2))
        tensor([0.0025, 0.0025])
        >>> objective.predict(output)[:, :2]
        tensor([[ 3., -3.],
                [ 3., -3.]])

    Reference:
        Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item recommendations", equation 3;
        Rendle et al. 2009, "BPR: Bayesian personalized ranking from implicit feedback" (arXiv 1205.2618), section 4.1;
        Krichene & Rendle 2020, "On sampled metrics for item recommendation".
    """

    draws_nothing: ClassVar[bool] = True

    losses = ("bpr", "softmax")
    rowwise: ClassVar[bool] = False
    main_metric = "ndcg@10"
    higher_is_better = True

    def __init__(
        self, dimension: int = 32, loss: str = "softmax", temperature: float = 1.0, candidates: int = 100
    ) -> None:
        super().__init__()
        self.outputs = 2 * at_least_one("ranking.dimension", dimension)
        self.dimension = dimension
        self.loss = one_of("ranking.loss", loss, ["bpr", "softmax"])
        self.temperature = positive("ranking.temperature", temperature)
        self.candidates = at_least_one("ranking.candidates", candidates)
        self.ranks_catalogue = False

    def rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row among its batch, (B,); 0 for a relevance of 0."""
        query, item = self._vectors(output)
        scores = query @ item.t() / self.temperature
        own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        others = ~own & ~(item[:, None] == item).all(2)
        if self.loss == "softmax":
            places = torch.arange(len(scores), device=scores.device)
            losses = F.cross_entropy(scores.masked_fill(~(others | own), -torch.inf), places, reduction="none")
        else:
            apart = F.softplus(scores - scores.diagonal()[:, None])
            losses = (apart * others).sum(1) / others.sum(1).clamp(min=1)
        return losses * (targets > 0)

    def predict(self, output: Tensor) -> Tensor:
        """Return scores of the own item and of candidates, (B, 1 + candidates); the lowest float for a missing
        candidate.
        """
        query, item = self._vectors(output.float())
        if self.ranks_catalogue:
            own = (query * item).sum(1, keepdim=True) / self.temperature
            standing = output[:, self.outputs :].float()
            return torch.cat([own, standing if standing.shape[1] else own.new_zeros(len(own), 5)], dim=1)
        lowest = torch.finfo(query.dtype).min
        found = [(query * item).sum(1)]
        for ahead in range(1, self.candidates + 1):
            other = item.roll(-ahead, 0)
            there = (other != item).any(1) if ahead < len(item) else torch.zeros_like(found[0], dtype=torch.bool)
            found.append(torch.where(there, (query * other).sum(1), lowest))
        scores = torch.stack(found, dim=1)
        return torch.where(scores == lowest, lowest, scores / self.temperature)

    def scores(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the score vectors of a logistic model of relevance in the own item's score, (1, B, 2 D), without
        candidates.
        """
        query, item = self._vectors(output)
        p = ((query * item).sum(1, keepdim=True) / self.temperature).sigmoid()
        return ((p * (1 - p)).sqrt() * torch.cat([item, query], dim=1) / self.temperature)[None]

    def prediction_losses(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of the own item among the candidates, or log(1 + p) of its place p in the catalogue; NaN if
        it is not relevant.
        """
        if self.ranks_catalogue:
            return (prediction[:, 1] + 0.5 * prediction[:, 2]).log1p().masked_fill(targets <= 0, torch.nan)
        own, others = prediction[:, :1], prediction[:, 1:]
        if self.loss == "softmax":
            losses = -prediction.log_softmax(1)[:, 0]
        else:
            there = others > torch.finfo(prediction.dtype).min
            losses = (F.softplus(others - own) * there).sum(1) / there.sum(1).clamp(min=1)
        return losses.masked_fill(targets <= 0, torch.nan)

    def prediction_errors(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return 1 where a candidate scores at least as high as the own item; NaN if that is not relevant."""
        if self.ranks_catalogue:
            return (prediction[:, 1:3].sum(1) > 0).float().masked_fill(targets <= 0, torch.nan)
        beaten = (prediction[:, 1:] >= prediction[:, :1]).any(1).float()
        return beaten.masked_fill(targets <= 0, torch.nan)

    def measure(self, prediction: Tensor, targets: Tensor, weights: Tensor | None = None) -> Statistics:
        """See `metrics.ranking_statistics` and `metrics.catalogue_statistics`, for the relevant rows."""
        relevant = (targets > 0).to(prediction.dtype)
        if self.ranks_catalogue:
            return metrics.catalogue_statistics(prediction[:, 1:], relevant if weights is None else relevant * weights)
        own = torch.zeros(len(prediction), dtype=torch.int64)
        return metrics.ranking_statistics(prediction, own, relevant if weights is None else relevant * weights)

    def metrics(self, statistics: Statistics) -> dict[str, float]:
        """See `metrics.ranking_metrics` and `metrics.catalogue_metrics`."""
        return (metrics.catalogue_metrics if self.ranks_catalogue else metrics.ranking_metrics)(statistics)

    def _vectors(self, output: Tensor) -> tuple[Tensor, Tensor]:
        query, item = output[:, : self.outputs].reshape(-1, 2, self.dimension).unbind(1)
        return query, item
