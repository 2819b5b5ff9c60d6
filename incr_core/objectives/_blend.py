"""Blend of several experts in one model: separate losses, and predictions mixed by recent accuracy."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from incr_core.metrics import Statistics
from incr_core.models import Derived, freshness
from incr_core.objectives._base import Binary, Multiclass, Objective, Regression
from incr_core.objectives._least_squares_mix import least_squares_mix

__all__ = ["Blend"]

HALF_LIFE = 1000.0
"""Number of rows after which an error of an expert counts half."""

STEEP = 8.0
"""Slope of the log-odds in a least-squares output of 0 and 1, which is too cautious and not a probability."""

WILD = 3.0
"""Errors of a regression are clipped at this number of the target's standard deviations."""

WILD_TARGET = 5.0
"""Targets of experts with a closed-form least-squares solution are clipped at this number of standard deviations."""


class Blend(Objective):
    """One objective for several experts, whose outputs are concatenated in the model's output.

        loss = sum_k loss of expert k, over those that learn by steps
        prediction = sum_k w_k prediction_k        w = argmin w^T E w over w >= 0, sum_k w_k = 1
        E += g(n) sum_i e_i e_i^T        e_ik = prediction_k(x_i) - y_i, for rows about to be learned, after n others

    w is the mix with the lowest recent Brier score, or squared error in units of the target's deviation. Experts with
    the same errors share their weight; an expert that is wrong where the others are right soon has weight 0. E is a sum
    over rows, with g for its decay (`freshness`). Its errors are those of the experts before any participant learned
    the rows, so the sum over participants is exact for any division. Before there are errors, the first expert has
    weight 1.

    Args:
        each: Objective of each expert: "binary", "multiclass" with or without `capacity`, or "regression".
        learned: Number of experts that learn by steps.
        solved: Number of experts that follow in the output and are solved in closed form. Their outputs are values in
            the target's unit, or least squares of 0 and 1: p = sigmoid(8 (output - 1/2)), or softmax(8 output).

    Example:
        >>> blend = Blend(Regression(), learned=1, solved=1)
        >>> blend.each.target.add(torch.tensor([[2.0], [0.0], [2.0]]))  # of mean 0 and spread 1
        >>> blend.predict(torch.tensor([[1.0, 3.0]])).tolist()
        [1.0]
        >>> said, true = torch.tensor([[1.0, 3.0], [-1.0, 3.0]]), torch.zeros(2, dtype=torch.float64)
        >>> for _ in range(2):
        ...     for name, value in blend.observe_answers(said, true).items():
        ...         _ = blend.get_buffer(name).add_(value)
        >>> [round(float(weight), 3) for weight in blend.weights()]  # E is diag(2, 18)
        [0.9, 0.1]

    Reference:
        Wolpert 1992; Breiman 1996 (stacking).
    """

    merge: ClassVar[dict[str, str]] = {"errors": "sum", "rows_before": "sum"}
    draws_nothing: ClassVar[bool] = True
    errors: Tensor
    rows_before: Tensor

    def __init__(self, each: Objective, learned: int, solved: int = 0) -> None:
        super().__init__()
        self.each, self.learned, self.experts = each, learned, learned + solved
        self.outputs = self.experts * each.outputs
        self.main_metric, self.higher_is_better = each.main_metric, each.higher_is_better
        self.target_type = each.target_type
        self.register_buffer("errors", torch.zeros(self.experts, self.experts, dtype=torch.float64))
        self.register_buffer("rows_before", torch.zeros((), dtype=torch.float64))
        self._weights = Derived[tuple[Tensor]]()

    # -- learning ------------------------------------------------------------------------------------------------

    def forward(self, output: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the sum of the experts' mean losses; each expert learns as it would alone."""
        losses: list[Tensor] = [self.each(part, targets, weights) for part in self.stepping(output)]
        return torch.stack(losses).sum()

    def rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the experts' losses of each row, (B,)."""
        return torch.stack([self.each.rows(part, targets) for part in self.stepping(output)]).sum(0)

    def scores(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the score vectors of all experts, which share no output."""
        width, found = self.each.outputs, []
        for place, part in enumerate(self.stepping(output)):
            ahead = place * width
            found.append(F.pad(self.each.scores(part, generator), (ahead, self.outputs - ahead - width)))
        return torch.cat(found)

    def stepping(self, output: Tensor) -> list[Tensor]:
        """The outputs of each expert that learns by steps."""
        return list(torch.split(output, self.each.outputs, dim=1))[: self.learned]

    def observe(self, targets: Tensor) -> dict[str, Tensor]:
        """Return the targets' additions to the statistics of the experts' objective."""
        return {f"each.{name}": value for name, value in self.each.observe(targets).items()}

    @torch.no_grad()
    def observe_answers(self, output: Tensor, targets: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return the additions of rows about to be learned to `errors` and `rows_before`.

        The first rows of all add no errors, because no expert has learned yet.

        Args:
            output: The experts' outputs for the rows.
            targets: Their targets.
            weights: Their weights.
        """
        rows = torch.tensor(float(len(targets)), dtype=torch.float64, device=output.device)
        if not bool(self.rows_before) or not self.each.ready:
            return {"errors": torch.zeros_like(self.errors), "rows_before": rows}
        errors = self._errors(output, targets)  # (K, B, C)
        weighed = errors if weights is None else errors * weights.double()[:, None]
        found = torch.einsum("kbc,lbc->kl", weighed, errors)
        return {"errors": found * freshness(self.rows_before, HALF_LIFE, early=True), "rows_before": rows}

    def numbers(self, targets: Tensor) -> Tensor:
        """Return the targets of a least-squares fit, (B, outputs of an expert), float64.

        These are 0 and 1 for each class, or the value, clipped by the target's known deviation.
        """
        if isinstance(self.each, Regression):
            mean, spread = self.each.target.scale()
            reach = WILD_TARGET * spread if self.each.ready else torch.full_like(spread, torch.inf)
            return targets.reshape(-1, 1).double().clamp(mean - reach, mean + reach)
        if self.each.outputs == 1:
            return targets.reshape(-1, 1).double()
        return F.one_hot(targets, self.each.outputs).double()

    def _errors(self, output: Tensor, targets: Tensor) -> Tensor:
        answers = self.answers(output).double()
        if isinstance(self.each, Regression):
            spread = self.each.target.scale()[1]
            return ((answers - targets.double()) / spread).clamp(-WILD, WILD)[:, :, None]
        if answers.dim() == 2:
            return (answers - targets)[:, :, None]
        return answers - F.one_hot(targets, answers.shape[2])

    # -- answering -----------------------------------------------------------------------------------------------

    def answers(self, output: Tensor) -> Tensor:
        """Return the prediction of each expert, (K, B) or (K, B, C)."""
        parts = torch.split(output, self.each.outputs, dim=1)
        return torch.stack(
            [self.each.predict(part) for part in parts[: self.learned]]
            + [self._meant(part) for part in parts[self.learned :]]
        )

    def _meant(self, part: Tensor) -> Tensor:
        """Return the prediction from closed-form outputs: values as they are, classes by log-odds."""
        if isinstance(self.each, Regression):
            return part.reshape(-1).double()
        # Rows count alike in a closed form: class weights have not moved it, and what predictions allow for is put on.
        assert isinstance(self.each, Binary | Multiclass)
        return self.each.predict(STEEP * (part.float() - 0.5) + self.each.learned_shift().to(part.device))

    def predict(self, output: Tensor) -> Tensor:
        """Return the mix of the experts' predictions, (B,) or (B, C)."""
        answers = self.answers(output)
        mixed: Tensor = torch.tensordot(self.weights().to(answers), answers, dims=1)
        return mixed

    def weights(self) -> Tensor:
        """Return the weight of each expert, (K,) float64."""
        return self._weights.of(self.errors, lambda: (least_squares_mix(self.errors),))[0]

    @property
    def answers_a_row(self) -> int:
        """Number of elements in a row's prediction."""
        return self.each.answers_a_row

    @property
    def ready(self) -> bool:
        """Whether the state suffices for meaningful predictions."""
        return self.each.ready

    def prediction_losses(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the losses of predictions, by the experts' objective."""
        return self.each.prediction_losses(prediction, targets)

    def prediction_errors(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return 1 for each wrong prediction, by the experts' objective."""
        return self.each.prediction_errors(prediction, targets)

    def measure(self, prediction: Tensor, targets: Tensor, weights: Tensor | None = None) -> Statistics:
        """Return additive statistics of predictions, by the experts' objective."""
        return self.each.measure(prediction, targets, weights)

    def metrics(self, statistics: Statistics) -> dict[str, float]:
        """Compute the metrics from the statistics, by the experts' objective."""
        return self.each.metrics(statistics)
