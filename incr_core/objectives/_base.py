"""Base class of the objectives, and those of binary, multiclass and regression targets.

To add one, subclass `Objective` and implement `rows`, `predict`, `measure` and `metrics`; `Binary` is a short example.
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
"""Up to this number of classes the Fisher information sums over all of them; above, one class is drawn per row."""


class Objective(MadeWith, nn.Module):
    """Base class of the objectives: a loss with its prediction and its metrics.

    State that an objective learns, such as the target's scale, travels with the model.

    Attributes:
        outputs: Number of model outputs per row.
        main_metric: The main metric.
        higher_is_better: Whether a higher value of it is better.
        target_type: Dtype of targets.
        losses: Names of alternative losses that it accepts (`losses.LOSSES`).
        rowwise: Whether the loss of a row is independent of the other rows of its batch. If not, accumulation is not
            exact, and each shard computes the whole batch.
    """

    losses: ClassVar[tuple[str, ...]] = ()
    rowwise: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Use the plain mean loss if a class defines `rows` but not `forward`, instead of a parent's shortcut around
        `rows`.
        """
        super().__init_subclass__(**kwargs)
        if "rows" in vars(cls) and "forward" not in vars(cls):
            cls.forward = Objective.forward  # type: ignore[method-assign]

    outputs: int = 1
    main_metric: str = "loss"
    higher_is_better: bool = False
    target_type: torch.dtype = torch.float32

    @property
    def answers_a_row(self) -> int:
        """Number of elements in a row's prediction. It equals `outputs` unless several outputs make one prediction."""
        return self.outputs

    def rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row, (B,)."""
        raise NotImplementedError

    def forward(self, output: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean loss: sum_i w_i l_i / sum_i w_i, and 0 if all weights are 0."""
        losses = self.rows(output, targets)
        if weights is None:
            return losses.mean()
        return (losses * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)

    def slope(self, output: Tensor, targets: Tensor) -> Tensor | None:
        """Return d `forward(output, targets)` / d output, in the output's shape, or None to use autograd.

        It speeds up linear models (`linear.py`). The result must equal autograd's, bit for bit. A subclass that
        redefines `forward` or `rows` but not this uses autograd.
        """
        return None

    def predict(self, output: Tensor) -> Tensor:
        """Return the prediction for the user: probabilities or values, (B,) or (B, C)."""
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """Whether the state suffices for meaningful predictions; earlier predictions are not scored."""
        return True

    def scores(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return score vectors for the Fisher information.

        Vectors s_k, (K, B, outputs), with sum_k s_k s_k^T = E_{y ~ p(y|x)}[(d log p / d output)(...)^T], exact or an
        unbiased draw.
        """
        raise NotImplementedError

    def prediction_losses(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each prediction for drift detection, (B,); NaN if a row carries no information."""
        raise NotImplementedError

    def prediction_errors(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return 1 for each wrong prediction, else 0, (B,); NaN if a row carries no information."""
        raise NotImplementedError

    def measure(self, prediction: Tensor, targets: Tensor, weights: Tensor | None = None) -> Statistics:
        """Return additive statistics of predictions against targets."""
        raise NotImplementedError

    def metrics(self, statistics: Statistics) -> dict[str, float]:
        """Compute the metrics from the statistics."""
        raise NotImplementedError

    def observe(self, targets: Tensor) -> dict[str, Tensor]:
        """Return the additions of targets about to be learned to the objective's buffers, by name."""
        return {}


class Binary(Objective):
    """Binary classification: binary cross-entropy of one logit, targets 0 or 1.

    Args:
        loss: A robust loss, "gce" or "sce" of `LOSSES`, instead of cross-entropy.
        balance: Class weights of rows of rare classes.

    Example:
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
        """Return the mean loss; without weights in one fused call, because this is the hot path."""
        if weights is None and self.loss is None and self.balance is None:
            return F.binary_cross_entropy_with_logits(output.reshape(-1), targets)
        return super().forward(output, targets, weights)

    def rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return -(y log p + (1 - y) log(1 - p)) with p = sigmoid(output), (B,), or the robust loss of it."""
        ce = F.binary_cross_entropy_with_logits(output.reshape(-1), targets, reduction="none")
        losses = ce if self.loss is None else self.loss(ce)
        return losses if self.balance is None else losses * self.balance.of_rows(targets)

    def slope(self, output: Tensor, targets: Tensor) -> Tensor | None:
        """Return (p - y) / B."""
        if self.loss is not None or self.balance is not None:
            return None
        error = output.sigmoid().sub_(targets.reshape(output.shape))
        rows = targets.shape[0]
        return error if rows == 1 else error.div_(rows)

    def predict(self, output: Tensor) -> Tensor:
        """Return the probability of class 1, (B,)."""
        logit = output.reshape(-1).float()
        if self.balance is not None:
            shift = self.balance.predicted_shift()
            logit = logit - (shift[1] - shift[0])
        return logit.sigmoid()

    def learned_shift(self) -> Tensor:
        """Return the shift of the learned output caused by class weights, (1,): 0 without `balance`."""
        if self.balance is None:
            return torch.zeros(1)
        shift = self.balance.learned_shift()
        return (shift[1] - shift[0]).reshape(1)

    def observe(self, targets: Tensor) -> dict[str, Tensor]:
        """Return the label counts of the rows to learn; none without `balance`."""
        if self.balance is None:
            return {}
        return {f"balance.{name}": value for name, value in self.balance.observe(targets).items()}

    def scores(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return one vector, sqrt(p (1 - p)), since E[(y - p)^2] = p (1 - p); exact. p is the learned probability."""
        p = output.reshape(-1).float().sigmoid()
        return (p * (1 - p)).sqrt().reshape(1, -1, 1)

    def prediction_losses(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return -(y log p + (1 - y) log(1 - p)), with each logarithm at least -100."""
        return F.binary_cross_entropy(prediction, targets, reduction="none")

    def prediction_errors(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return 1 where [p >= 1/2] differs from y."""
        return ((prediction >= 0.5) != (targets > 0.5)).float()

    def measure(self, prediction: Tensor, targets: Tensor, weights: Tensor | None = None) -> Statistics:
        """See `metrics.binary_statistics`."""
        return metrics.binary_statistics(prediction, targets, weights)

    def metrics(self, statistics: Statistics) -> dict[str, float]:
        """See `metrics.binary_metrics`."""
        return metrics.binary_metrics(statistics)


class Multiclass(Objective):
    """Multiclass classification: cross-entropy of C logits, targets int64 class numbers.

    Args:
        classes: C.
        loss: A robust loss, "gce" or "sce" of `LOSSES`, instead of cross-entropy.
        balance: Class weights of rows of rare classes.

    Example:
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
        """Return the mean loss; without weights in one fused call, because this is the hot path."""
        if weights is None and self.loss is None and self.balance is None:
            return F.cross_entropy(output, targets)
        return super().forward(output, targets, weights)

    def rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return -log softmax(output)[y], (B,), or the robust loss of it."""
        ce = F.cross_entropy(output, targets, reduction="none")
        losses = ce if self.loss is None else self.loss(ce)
        return losses if self.balance is None else losses * self.balance.of_rows(targets)

    def slope(self, output: Tensor, targets: Tensor) -> Tensor | None:
        """Return (p - e_y) / B."""
        if self.loss is not None or self.balance is not None:
            return None
        wanted = torch.zeros_like(output).scatter_(1, targets[:, None], -1.0 / len(targets))
        return log_softmax_gradient(wanted, output.log_softmax(1), 1, output.dtype)

    def predict(self, output: Tensor) -> Tensor:
        """Return class probabilities, (B, C)."""
        logits = output.float()
        return (logits if self.balance is None else logits - self.balance.predicted_shift()).softmax(dim=1)

    def learned_shift(self) -> Tensor:
        """Return the shift of the learned output caused by class weights, (C,): 0 without `balance`."""
        return torch.zeros(self.outputs) if self.balance is None else self.balance.learned_shift()

    def observe(self, targets: Tensor) -> dict[str, Tensor]:
        """Return the label counts of the rows to learn; none without `balance`."""
        if self.balance is None:
            return {}
        return {f"balance.{name}": value for name, value in self.balance.observe(targets).items()}

    def visible(self, output: Tensor) -> Tensor:
        """Return the output with unseen classes masked, (B, C). Here all classes count as seen."""
        return output

    def scores(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return sqrt(p_c) (e_c - p) for every class c, exact; above `EXACT_CLASSES` classes, e_y - p for a drawn y."""
        p = self.visible(output).float().softmax(dim=1)
        classes = p.shape[1]
        if classes > EXACT_CLASSES:
            # If the model has diverged, p is NaN and cannot be drawn from; the check of the loss reports the
            # divergence.
            drawn = torch.multinomial(p.nan_to_num(1.0), 1, generator=generator).reshape(-1)
            return (F.one_hot(drawn, classes) - p)[None]
        return p.t().sqrt()[:, :, None] * (torch.eye(classes, device=p.device)[:, None, :] - p[None])

    def prediction_losses(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return -log p[y], at most 100."""
        return -prediction.gather(1, targets[:, None]).squeeze(1).log().clamp(min=-100.0)

    def prediction_errors(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return 1 where the most probable class is not y."""
        return (prediction.argmax(1) != targets).float()

    def measure(self, prediction: Tensor, targets: Tensor, weights: Tensor | None = None) -> Statistics:
        """See `metrics.multiclass_statistics`."""
        return metrics.multiclass_statistics(prediction, targets, weights)

    def metrics(self, statistics: Statistics) -> dict[str, float]:
        """See `metrics.multiclass_metrics`."""
        return metrics.multiclass_metrics(statistics)


class Regression(Objective):
    """Regression: squared error in units of the target's deviation, so that the step size is independent of the unit.

        l = (output - (y - mean) / std)^2        prediction = mean + std * output

    mean and std cover all targets learned so far and merge exactly between participants. They, the targets and the
    predictions are float64, which allows an offset of a million times the deviation.

    Args:
        loss: A robust loss, "huber" of `LOSSES`, instead of the square.

    Example:
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
        """Return the squared error of the standardised target, (B,), or the robust loss of the error."""
        error = self._error(output, targets)
        return error**2 if self.loss is None else self.loss(error)

    def _error(self, output: Tensor, targets: Tensor) -> Tensor:
        return output.reshape(-1) - self.target.standardise(targets.reshape(-1, 1)).reshape(-1).float()

    def slope(self, output: Tensor, targets: Tensor) -> Tensor | None:
        """Return 2 (output - (y - mean) / std) / B."""
        if self.loss is not None:
            return None
        return (2 * self._error(output, targets) * (1 / len(targets))).reshape(output.shape)

    def predict(self, output: Tensor) -> Tensor:
        """Return the value in the target's unit, (B,)."""
        mean, std = self.target.scale()
        return mean + std * output.reshape(-1)

    @property
    def ready(self) -> bool:
        """Whether a target was seen; before that the location of values is unknown."""
        return bool(self.target.sums[0].any())

    def scores(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return ones: for a Gaussian of unit variance in standardised units E[(y - output)^2] = 1, exact."""
        return torch.ones_like(output.float()).reshape(1, -1, 1)

    def prediction_losses(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return |prediction - y|, in the target's unit."""
        return (prediction - targets).abs()

    def measure(self, prediction: Tensor, targets: Tensor, weights: Tensor | None = None) -> Statistics:
        """See `metrics.regression_statistics`."""
        return metrics.regression_statistics(prediction, targets, weights)

    def metrics(self, statistics: Statistics) -> dict[str, float]:
        """See `metrics.regression_metrics`."""
        return metrics.regression_metrics(statistics)

    def observe(self, targets: Tensor) -> dict[str, Tensor]:
        """Return the moments of targets about to be learned."""
        return {"target.sums": self.target.measure(targets.reshape(-1, 1))}
