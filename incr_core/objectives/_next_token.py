"""Next-token objective for sequences."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from incr_core import metrics
from incr_core.metrics import Statistics
from incr_core.objectives._base import Objective

__all__ = ["NextToken"]


class NextToken(Objective):
    """Next-token prediction over V tokens at every place of a sequence.

        l = -1/T sum_t log softmax(output_t)[y_t]

    A row of T + 1 tokens gives T inputs and, shifted by one, T targets. All T places are learned. Predictions and
    metrics concern the last token, which is not part of the inputs. The model must be causal: its output at a place may
    depend only on the tokens up to it.

    Args:
        vocabulary: V.

    Shapes:
        targets: (B, T), int64. output: (B, T, V).

    Example:
        >>> objective = NextToken(4)
        >>> round(float(objective(torch.zeros(2, 5, 4), torch.zeros(2, 5, dtype=torch.int64))), 4)
        1.3863
        >>> objective.predict(torch.zeros(2, 5, 4)).shape
        torch.Size([2, 4])
    """

    draws_nothing: ClassVar[bool] = True

    main_metric = "perplexity"
    target_type = torch.int64

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.outputs = vocabulary

    def rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over places, (B,)."""
        return F.cross_entropy(output.flatten(0, 1), targets.flatten(), reduction="none").reshape(targets.shape).mean(1)

    def predict(self, output: Tensor) -> Tensor:
        """Return the probability of each token to come next, (B, V)."""
        return output[:, -1].float().softmax(dim=1)

    def scores(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return e_y - p with y drawn from p, at every place, (1, B, T V): an unbiased draw."""
        p = output.float().softmax(dim=2)
        drawn = torch.multinomial(p.flatten(0, 1), 1, generator=generator).reshape(p.shape[:2])
        return (F.one_hot(drawn, self.outputs) - p).flatten(1)[None]

    def prediction_losses(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return -log p[y] of the last token, at most 100."""
        return -prediction.gather(1, targets[:, -1:]).squeeze(1).log().clamp(min=-100.0)

    def prediction_errors(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return 1 where the most probable token is not the last."""
        return (prediction.argmax(1) != targets[:, -1]).float()

    def measure(self, prediction: Tensor, targets: Tensor, weights: Tensor | None = None) -> Statistics:
        """See `metrics.multiclass_statistics`, for the last token of each row."""
        return metrics.multiclass_statistics(prediction, targets[:, -1], weights)

    def metrics(self, statistics: Statistics) -> dict[str, float]:
        """See `metrics.multiclass_metrics`; adds perplexity, the exponential of the log loss."""
        found = metrics.multiclass_metrics(statistics)
        return {"perplexity": math.exp(found["log_loss"]), **found}
