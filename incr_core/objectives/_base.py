"""What the model is asked to do: a loss per row, a prediction, and the metrics of its predictions.

To add one, subclass `Objective` and write `rows`, `predict`, `measure` and `metrics`: see `Binary`, ten lines.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from incr_core import metrics
from incr_core._util import MadeWith
from incr_core.metrics import Statistics
from incr_core.models import Moments
from incr_core.numerics import log_softmax_gradient
from incr_core.objectives._balance import Balance
from incr_core.objectives._losses import Loss

__all__ = ["Binary", "Multiclass", "Objective", "Regression"]

EXACT_CLASSES = 16
"""Up to this many classes the Fisher information sums over all of them; above, one is drawn a row."""


class Objective(MadeWith, nn.Module):
    """A loss with its prediction and its metrics; state it learns (a target's scale) travels with the model.

    outputs: how many numbers the model gives for a row.
    main_metric: the metric to look at first, and whether more is better.
    losses: names of the losses it takes besides its own (`losses.LOSSES`).
    rowwise: whether the loss of a row depends on no other row of its batch. Where it does, accumulation is not exact,
    and shards each compute the whole batch.
    """

    losses: ClassVar[tuple[str, ...]] = ()
    rowwise: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Where a class has a loss of its own and no way to its mean, that is the plain one, and not a parent's short
        cut around `rows`."""
        super().__init_subclass__(**kwargs)
        if "rows" in vars(cls) and "forward" not in vars(cls):
            cls.forward = Objective.forward  # type: ignore[method-assign]

    outputs: int = 1
    main_metric: str = "loss"
    higher_is_better: bool = False
    target_type: torch.dtype = torch.float32

    @property
    def answers_a_row(self) -> int:
        """How many numbers a prediction has, a row: as many as there are outputs, unless several make one."""
        return self.outputs

    def rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """The loss of each row, (B,)."""
        raise NotImplementedError

    def forward(self, output: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean loss: sum_i w_i l_i / sum_i w_i, and 0 where all weights are 0."""
        losses = self.rows(output, targets)
        if weights is None:
            return losses.mean()
        return (losses * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)

    def slope(self, output: Tensor, targets: Tensor) -> Tensor | None:
        """d `forward(output, targets)` / d output, in the output's shape; None where it is left to autograd.

        What is gained is the speed of linear models (`linear.py`). It must be autograd's to the bit. Where a class
        below redefines `forward` or `rows`, and not this, autograd is asked.
        """
        return None

    def predict(self, output: Tensor) -> Tensor:
        """What is told to the user: probabilities or values, (B,) or (B, C)."""
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """Whether it knows enough for predictions to mean anything; those made before are not scored."""
        return True

    def scores(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Vectors s_k, (K, B, outputs), with sum_k s_k s_k^T = E_{y ~ p(y|x)}[(d log p / d output)(...)^T], for the
        Fisher information: exact, or an unbiased draw.
        """
        raise NotImplementedError

    def prediction_losses(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """How wrong each prediction was, (B,), for whoever watches for drift; NaN where a row tells nothing of it."""
        raise NotImplementedError

    def prediction_errors(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """1 where a prediction was wrong, else 0, (B,); NaN where a row tells nothing of it."""
        raise NotImplementedError

    def measure(self, prediction: Tensor, targets: Tensor, weights: Tensor | None = None) -> Statistics:
        """Additive statistics of predictions against targets."""
        raise NotImplementedError

    def metrics(self, statistics: Statistics) -> dict[str, float]:
        """The metrics that the statistics amount to."""
        raise NotImplementedError

    def observe(self, targets: Tensor) -> dict[str, Tensor]:
        """What targets about to be learned add to the objective's own buffers, by the buffer's name."""
        return {}


class Binary(Objective):
    """Two classes: binary cross-entropy of one logit, targets 0 or 1.

    loss: "gce" or "sce" instead of cross-entropy. balance: what rows of the rarer class count, of 2 classes.

    >>> loss = Binary()
    >>> round(float(loss(torch.zeros(2), torch.tensor([0.0, 1.0]))), 4)
    0.6931
    >>> loss.predict(torch.zeros(1)).tolist()
    [0.5]
    """

    draws_nothing: ClassVar[bool] = True

    losses = ("gce", "sce")
    main_metric = "auc"
    higher_is_better = True

    def __init__(self, loss: Loss | None = None, balance: Balance | None = None) -> None:
        super().__init__()
        self.loss, self.balance = loss, balance

    def forward(self, output: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean loss; without weights in one fused call, since this is the hot path."""
        if weights is None and self.loss is None and self.balance is None:
            return F.binary_cross_entropy_with_logits(output.reshape(-1), targets)
        return super().forward(output, targets, weights)

    def rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """-(y log p + (1 - y) log(1 - p)) with p = sigmoid(output), (B,), or the loss made of it."""
        ce = F.binary_cross_entropy_with_logits(output.reshape(-1), targets, reduction="none")
        losses = ce if self.loss is None else self.loss(ce)
        return losses if self.balance is None else losses * self.balance.of_rows(targets)

    def slope(self, output: Tensor, targets: Tensor) -> Tensor | None:
        """(p - y) / B."""
        if self.loss is not None or self.balance is not None:
            return None
        error = output.sigmoid().sub_(targets.reshape(output.shape))
        rows = targets.shape[0]
        return error if rows == 1 else error.div_(rows)

    def predict(self, output: Tensor) -> Tensor:
        """The probability of class 1, (B,)."""
        logit = output.reshape(-1).float()
        if self.balance is not None:
            shift = self.balance.predicted_shift()
            logit = logit - (shift[1] - shift[0])
        return logit.sigmoid()

    def learned_shift(self) -> Tensor:
        """By how much class weights have moved what is learned, as an output (1,): 0 without `balance`."""
        if self.balance is None:
            return torch.zeros(1)
        shift = self.balance.learned_shift()
        return (shift[1] - shift[0]).reshape(1)

    def observe(self, targets: Tensor) -> dict[str, Tensor]:
        """The counts of labels about to be learned, where rare classes count more."""
        if self.balance is None:
            return {}
        return {f"balance.{name}": value for name, value in self.balance.observe(targets).items()}

    def scores(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """E[(y - p)^2] = p (1 - p): one vector, sqrt(p (1 - p)), exact; p as it is learned."""
        p = output.reshape(-1).float().sigmoid()
        return (p * (1 - p)).sqrt().reshape(1, -1, 1)

    def prediction_losses(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """-(y log p + (1 - y) log(1 - p)), each logarithm at least -100."""
        return F.binary_cross_entropy(prediction, targets, reduction="none")

    def prediction_errors(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Where p >= 1/2 is not y."""
        return ((prediction >= 0.5) != (targets > 0.5)).float()

    def measure(self, prediction: Tensor, targets: Tensor, weights: Tensor | None = None) -> Statistics:
        """See `metrics.binary_statistics`."""
        return metrics.binary_statistics(prediction, targets, weights)

    def metrics(self, statistics: Statistics) -> dict[str, float]:
        """See `metrics.binary_metrics`."""
        return metrics.binary_metrics(statistics)


class Multiclass(Objective):
    """One of C classes: cross-entropy of C logits, targets int64 class numbers.

    loss: "gce" or "sce" instead of cross-entropy. balance: what rows of rare classes count, of C classes.

    >>> loss = Multiclass(4)
    >>> round(float(loss(torch.zeros(2, 4), torch.tensor([0, 3]))), 4)
    1.3863
    """

    draws_nothing: ClassVar[bool] = True

    losses = ("gce", "sce")
    main_metric = "accuracy"
    higher_is_better = True
    target_type = torch.int64

    def __init__(self, classes: int, loss: Loss | None = None, balance: Balance | None = None) -> None:
        super().__init__()
        self.outputs = classes
        self.loss, self.balance = loss, balance

    def forward(self, output: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean loss; without weights in one fused call, since this is the hot path."""
        if weights is None and self.loss is None and self.balance is None:
            return F.cross_entropy(output, targets)
        return super().forward(output, targets, weights)

    def rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """-log softmax(output)[y], (B,), or the loss made of it."""
        ce = F.cross_entropy(output, targets, reduction="none")
        losses = ce if self.loss is None else self.loss(ce)
        return losses if self.balance is None else losses * self.balance.of_rows(targets)

    def slope(self, output: Tensor, targets: Tensor) -> Tensor | None:
        """(p - e_y) / B."""
        if self.loss is not None or self.balance is not None:
            return None
        wanted = torch.zeros_like(output).scatter_(1, targets[:, None], -1.0 / len(targets))
        return log_softmax_gradient(wanted, output.log_softmax(1), 1, output.dtype)

    def predict(self, output: Tensor) -> Tensor:
        """Class probabilities, (B, C)."""
        logits = output.float()
        return (logits if self.balance is None else logits - self.balance.predicted_shift()).softmax(dim=1)

    def learned_shift(self) -> Tensor:
        """By how much class weights have moved what is learned, as an output (C,): 0 without `balance`."""
        return torch.zeros(self.outputs) if self.balance is None else self.balance.learned_shift()

    def observe(self, targets: Tensor) -> dict[str, Tensor]:
        """The counts of labels about to be learned, where rare classes count more."""
        if self.balance is None:
            return {}
        return {f"balance.{name}": value for name, value in self.balance.observe(targets).items()}

    def visible(self, output: Tensor) -> Tensor:
        """The output with classes that there are not yet put out of reach, (B, C): here all are there."""
        return output

    def scores(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """sqrt(p_c) (e_c - p) for every class c: exact up to `EXACT_CLASSES` classes; above, e_y - p for a drawn y."""
        p = self.visible(output).float().softmax(dim=1)
        classes = p.shape[1]
        if classes > EXACT_CLASSES:
            # Where the model has diverged there is nothing to draw from; who looks at the loss will say so.
            drawn = torch.multinomial(p.nan_to_num(1.0), 1, generator=generator).reshape(-1)
            return (F.one_hot(drawn, classes) - p)[None]
        return p.t().sqrt()[:, :, None] * (torch.eye(classes, device=p.device)[:, None, :] - p[None])

    def prediction_losses(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """-log p[y], at most 100."""
        return -prediction.gather(1, targets[:, None]).squeeze(1).log().clamp(min=-100.0)

    def prediction_errors(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Where the likeliest class is not y."""
        return (prediction.argmax(1) != targets).float()

    def measure(self, prediction: Tensor, targets: Tensor, weights: Tensor | None = None) -> Statistics:
        """See `metrics.multiclass_statistics`."""
        return metrics.multiclass_statistics(prediction, targets, weights)

    def metrics(self, statistics: Statistics) -> dict[str, float]:
        """See `metrics.multiclass_metrics`."""
        return metrics.multiclass_metrics(statistics)


class Regression(Objective):
    """A number: squared error in units of the target's own spread, so that the step size does not depend on its unit.

        l = (output - (y - mean) / std)^2        prediction = mean + std * output

    mean and std are those of all targets learned so far, merged exactly between participants. They, targets and
    predictions are float64: an offset of a million times the spread is no matter. loss: "huber" instead of the square.

    >>> loss = Regression()
    >>> loss.target.add(loss.observe(torch.tensor([100.0, 300.0]))["target.sums"])
    >>> loss.predict(torch.tensor([0.0, 1.0])).tolist()
    [200.0, 300.0]
    """

    draws_nothing: ClassVar[bool] = True

    losses = ("huber",)
    main_metric = "mae"
    target_type = torch.float64

    def __init__(self, loss: Loss | None = None) -> None:
        super().__init__()
        self.target = Moments(1, torch.float64)
        self.loss = loss

    def rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """Squared error of the standardised target, (B,), or the loss made of the error."""
        error = self._error(output, targets)
        return error**2 if self.loss is None else self.loss(error)

    def _error(self, output: Tensor, targets: Tensor) -> Tensor:
        return output.reshape(-1) - self.target.standardise(targets.reshape(-1, 1)).reshape(-1).float()

    def slope(self, output: Tensor, targets: Tensor) -> Tensor | None:
        """2 (output - (y - mean) / std) / B."""
        if self.loss is not None:
            return None
        return (2 * self._error(output, targets) * (1 / len(targets))).reshape(output.shape)

    def predict(self, output: Tensor) -> Tensor:
        """The value in the target's own unit, (B,)."""
        mean, std = self.target.scale()
        return mean + std * output.reshape(-1)

    @property
    def ready(self) -> bool:
        """Whether any target was seen: without one nobody knows where the values lie."""
        return bool(self.target.sums[0].any())

    def scores(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A Gaussian of unit variance in standardised units: E[(y - output)^2] = 1, exact."""
        return torch.ones_like(output.float()).reshape(1, -1, 1)

    def prediction_losses(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """|prediction - y|, in the target's unit."""
        return (prediction - targets).abs()

    def measure(self, prediction: Tensor, targets: Tensor, weights: Tensor | None = None) -> Statistics:
        """See `metrics.regression_statistics`."""
        return metrics.regression_statistics(prediction, targets, weights)

    def metrics(self, statistics: Statistics) -> dict[str, float]:
        """See `metrics.regression_metrics`."""
        return metrics.regression_metrics(statistics)

    def observe(self, targets: Tensor) -> dict[str, Tensor]:
        """The moments of targets about to be learned."""
        return {"target.sums": self.target.measure(targets.reshape(-1, 1))}
