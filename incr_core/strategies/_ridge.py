"""Ridge regression on random features: a head computed from sums over all rows, without forgetting."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from incr_core.batch import Batch
from incr_core.errors import StrategyError
from incr_core.models import STEPS, Moments, RidgeSums, answering
from incr_core.models.adapt import RidgeHead
from incr_core.objectives import Binary, Multiclass, Multilabel, Objective, Regression
from incr_core.strategies._arguments import fraction, positive
from incr_core.strategies._base import Context, Strategy
from incr_core.strategies._traits import Traits

__all__ = ["Ridge"]

OBJECTIVES = (Regression, Binary, Multilabel, Multiclass)
VALUE, EACH, ONE_OF = range(3)
"""Meaning of an output: a real value, one binary label, or one class of several."""

SHARPNESS = 1.25
FORWARD = 4096


class Ridge(Strategy):
    """Sum the random features of every new row, and fit the model's `RidgeHead` by ridge regression on all rows.

        end:     sums += those of the increment's rows (`RidgeSums`), merged between participants
        derive:  W, b = argmin sum_i |y_i - h_i W - b|^2 + penalty |W|^2        sums *= (1 - decay)^(new rows)

    y is one-hot for classes, 0 or 1 for labels, and the value for a regression. The intercept b is not penalised. No
    row is stored and none is forgotten: the head equals that of all rows at once, to rounding, for any order of rows
    and any number of participants. A row counts once for any number of passes, and by its weight.

    Scores s = h W + b of classes become probabilities by their residual deviation r on the summed rows; r is increased
    if these are few:

        multiclass:          softmax(1.25 s / r), r^2 the mean over classes
        binary, multilabel:  sigmoid(1.25 (2 s - 1) / r)

    The head is solved by a Cholesky factorisation when an increment ends. With 2,000 features this takes as long as
    adding 2,000 rows. Updating an inverse instead would be faster below about 100 rows, but inverses of several
    participants cannot be added.

    The model must come from `incr_core.models.adapt.ridge` and have no other trainable weights.

    Args:
        penalty: Weight of |W|^2, in rows with a feature of 1. Raise it if rows are few.
        decay: 0 for a stream without drift; otherwise about the last 1 / decay rows count.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from incr_core.models.adapt import ridge
        >>> from incr_core.learner import Learner
        >>> model = ridge(nn.Sequential(nn.Flatten(), nn.Linear(1, 3)), features=100)
        >>> learner = Learner(model, Multiclass(3), "sgd", [Ridge(penalty=0.01)])
        >>> for label in range(3):  # one class after another
        ...     _ = learner.learn(Batch(label + torch.rand(50, 1) / 2, torch.full((50,), label)))
        >>> learner.predict(torch.tensor([[0.2], [1.2], [2.2]])).argmax(1).tolist()
        [0, 1, 2]

    Reference:
        McDonnell et al. 2023, "RanPAC: random projections and pre-trained models for continual learning", algorithm 1;
        Zhuang et al. 2022, "ACIL".
    """

    traits = Traits(
        shared={"sums": "sum", "known": "max", "kind": "max"},
        alone="it computes the only weights that change, so there are no steps in which another could take part",
    )

    known: Tensor

    def __init__(self, penalty: float = 10.0, decay: float = 0.0) -> None:
        super().__init__()
        self.penalty = positive("ridge.penalty", penalty)
        self.decay = fraction("ridge.decay", decay)

    def attach(self, ctx: Context) -> None:
        """Find the head, and allocate the sums."""
        heads = [part for part in ctx.model.modules() if isinstance(part, RidgeHead)]
        if len(heads) != 1 or ctx.names:
            got = f"{ctx.names[0]}, which is trainable" if heads and ctx.names else f"{len(heads)} of them"
            raise StrategyError(
                f"ridge: expected a model with one RidgeHead and no trainable weights, got {got}; make it with "
                'incr_core.models.adapt.ridge, or learner.head = "ridge"'
            )
        kind = next((kind for kind in OBJECTIVES if isinstance(ctx.objective, kind)), None)
        if kind is None or getattr(ctx.objective, "loss", None) is not None:
            got = type(ctx.objective).__name__ if kind is None else "another loss than the objective's own"
            raise StrategyError(
                "ridge: expected the objective Regression, Binary, Multiclass or Multilabel with its own loss, got "
                f"{got}; use a plain head for it"
            )
        self._head = (heads[0],)  # in a tuple, so that the model's head is not part of this strategy's state
        self.sums = RidgeSums(*heads[0].ridge_weight.shape)
        meaning = VALUE if kind is Regression else ONE_OF if kind is Multiclass else EACH
        self.register_buffer("kind", torch.tensor(meaning))
        self.register_buffer("known", torch.zeros((), dtype=torch.float64))  # rows when the head was last solved

    @torch.no_grad()
    def end(self, ctx: Context, labelled: Batch) -> None:
        """Add the increment's rows to the sums."""
        self._add(ctx.model, ctx.objective, labelled)

    @torch.no_grad()
    def take_out(self, model: nn.Module, objective: Objective, rows: Batch) -> None:
        """Subtract learned rows from the sums, which then equal those of the remaining rows.

        The head changes when it is next solved.

        Raises:
            StrategyError: The sums decay, so that rows cannot be subtracted.
        """
        if self.decay:
            raise StrategyError(
                f"ridge: expected sums of whole rows to subtract rows from, got sums with decay {self.decay:g}; "
                "rows leave them over time"
            )
        before = self.sums.count.clone()
        self._add(model, objective, rows, sign=-1)
        self.known += self.sums.count - before

    def _add(self, model: nn.Module, objective: Objective, rows: Batch, sign: int = 1) -> None:
        levels = list[Tensor]()
        reading = self._head[0].features.register_forward_hook(lambda _, inputs, output: levels.append(output))
        try:
            with answering(model):
                for part in rows.split(FORWARD):
                    model(part.inputs)
                    self.sums.add(levels.pop(), _targets(objective, part.targets), part.weights, sign)
        finally:
            reading.remove()

    def derive(
        self, weights: Mapping[str, Tensor], shared: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Solve for the head, then decay the sums."""
        sums = RidgeSums.of({name.removeprefix("sums."): value for name, value in shared.items()})
        # Features are counted in levels, so the penalty is scaled by the squared number of levels per unit.
        weight, bias, unexplained = sums.solve(self.penalty * STEPS**2)
        kind = int(shared["kind"])
        if kind == VALUE:
            mean, std = _scale(weights["objective.target.sums"])
            weight, bias = weight / std, (bias - mean) / std
        else:
            sharp = SHARPNESS / _deviation(sums, unexplained, each=kind == EACH)
            weight, bias = (
                (weight * sharp, bias * sharp) if kind == ONE_OF else (2 * weight * sharp, (2 * bias - 1) * sharp)
            )
        found = {name.rpartition(".")[2]: name for name in weights if name.endswith((".ridge_weight", ".ridge_bias"))}
        head = {found["ridge_weight"]: weight, found["ridge_bias"]: bias}
        if self.decay:
            sums.fade((1.0 - self.decay) ** (sums.count - shared["known"]))
        faded = {f"sums.{name}": value for name, value in sums.named_buffers()} if self.decay else {}
        return {name: value.to(weights[name].dtype) for name, value in head.items()}, {**faded, "known": sums.count}


def _targets(objective: Objective, targets: Tensor) -> Tensor:
    """Return the targets as a matrix, (B, K)."""
    if isinstance(objective, Multiclass):
        return F.one_hot(targets, objective.outputs)
    return targets.reshape(len(targets), -1)


def _scale(target: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of a regression's targets, the units of the model's output."""
    moments = Moments(1, torch.float64).to(target.device)
    moments.add(target)
    return moments.scale()


def _deviation(sums: RidgeSums, unexplained: Tensor, *, each: bool) -> Tensor:
    """Return the residual deviation of each target, or their mean.

    Part of the explained variance is chance: the estimate adds pseudo-rows without any, a quarter of the number of
    features.
    """
    doubt = len(sums.features) / 4
    share = sums.targets / sums.count.clamp(min=1e-300)
    left = (sums.count * unexplained + doubt) / (sums.count + doubt) * share * (1 - share)
    if not each:
        left = left.sum() / (sums.targets > 0).sum().clamp(min=1)
    return left.clamp(min=1e-4).sqrt()
