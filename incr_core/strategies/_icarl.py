"""iCaRL: exemplars, distillation and nearest-mean classification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from incr_core.batch import Batch, cat
from incr_core.errors import StrategyError
from incr_core.memories import Herding, columns_of, to_batch
from incr_core.models import Activations
from incr_core.models.adapt import NearestMean
from incr_core.strategies._arguments import not_negative, require_classes
from incr_core.strategies._base import Context, Strategy
from incr_core.strategies._traits import Traits
from incr_core.strategies.mechanisms import Snapshot

__all__ = ["ICaRL"]


class ICaRL(Strategy):
    """Learn a representation by distillation and exemplars, and predict the class with the nearest mean.

        loss = sum over classes of binary cross-entropy(output, q) / classes, mean over new and remembered rows, where
        q_c = sigmoid(teacher's output_c) for classes of earlier increments, and [y = c] for the others
        at the end of an increment: exemplars by herding; class means of the exemplars' normalised activations are
            written
        to the model's `NearestMean` head
        at the beginning of an increment but the first: teacher <- w

    Earlier increments count on whichever participant they were learned. Rows appended by a replay strategy that is
    listed before this one are learned like exemplars; rows appended by a later one keep their own loss.

    Args:
        capacity: Number of exemplars, or their bytes.
        ratio: Exemplars per new row in each batch. 0 turns the strategy off.

    Example:
        >>> ICaRL(capacity=500).memory
        Herding()

    Reference:
        Rebuffi et al. 2017, "iCaRL: incremental classifier and representation learning", algorithms 2 to 5.
    """

    traits = Traits(rowwise=False, sets_aside=True, remakes=True, shared={"seen": "max"})

    seen: Tensor

    def __init__(self, capacity: int | str = 5000, ratio: float = 1.0) -> None:
        super().__init__()
        self.capacity = capacity
        self.ratio = not_negative("icarl.ratio", ratio)
        self.memory = Herding(capacity)
        self.teacher = Snapshot()
        self._taught: Tensor | None = None
        self._weights: Tensor | None = None
        self._rows = 0

    @property
    def off(self) -> bool:
        """Whether the ratio is 0."""
        return self.ratio == 0

    def attach(self, ctx: Context) -> None:
        """Check the head, and allocate the teacher."""
        require_classes("icarl", ctx.objective, "use replay")
        self._activations = Activations(ctx.model, "icarl")
        head = self._activations.head
        if not isinstance(head, NearestMean):
            raise StrategyError(
                f"icarl: expected a model whose last layer is NearestMean, to predict by class means, "
                f"got {type(head).__name__}; make it with incr_core.models.adapt.nearest_mean(model), "
                'or [[model.adapt]] name = "nearest_mean"'
            )
        self._head = (head,)  # in a tuple, so that the model's head is not part of this strategy's state
        self._activations.keep()
        self.teacher.allocate(ctx)
        self.register_buffer("seen", torch.zeros(ctx.objective.outputs))

    def begin(self, ctx: Context) -> None:
        """Capture the current model as the teacher, if rows were learned before."""
        if self.seen.any():
            self.teacher.capture(ctx)

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        """Append exemplars, and record the teacher's output for all rows."""
        if self.memory.available:
            count = ctx.per_new_row(self.ratio)
            batch = cat([batch, to_batch(self.memory.sample(count, ctx.generator))])
        if self.teacher.captured:
            self._taught = self.teacher(ctx, batch.inputs)
        self._weights, self._rows = batch.weights, len(batch)
        return replace(batch, weights=torch.zeros(len(batch), device=batch.targets.device))

    def draws(self, rows: int, batches: int) -> int:
        """Return `ratio` rows per new row."""
        return round(self.ratio * rows)

    def loss(self, ctx: Context, batch: Batch, output: Tensor) -> Mapping[str, Tensor]:
        """Return the binary cross-entropy of every class; old classes have the teacher's output as target."""
        rows = output[: self._rows]
        wanted = F.one_hot(batch.targets[: self._rows], output.shape[1]).to(rows.dtype)
        if self._taught is not None:
            wanted = torch.where(self.seen > 0, self._taught.sigmoid(), wanted)
        losses = F.binary_cross_entropy_with_logits(rows, wanted, reduction="none").mean(1)
        if self._weights is None:
            return {"icarl": losses.mean()}
        return {"icarl": (losses * self._weights).sum() / self._weights.sum()}

    @torch.no_grad()
    def end(self, ctx: Context, labelled: Batch) -> None:
        """Choose exemplars among those held and the increment's rows, and set the class means of the head."""
        if len(labelled) == 0:
            return
        candidates = labelled if self.memory.size == 0 else cat([to_batch(self.memory.rows_held()), labelled])
        self.memory.choose(columns_of(candidates), self._normalised(ctx, candidates))
        exemplars = to_batch(self.memory.rows_held())
        activations = self._normalised(ctx, exemplars)
        members = F.one_hot(exemplars.targets, ctx.objective.outputs).to(activations.dtype).t()
        counts = members.sum(1, keepdim=True)
        self._head[0].tell(members @ activations / counts.clamp(min=1), (counts[:, 0] > 0).float())
        self.seen[labelled.targets] = 1.0

    def _normalised(self, ctx: Context, batch: Batch) -> Tensor:
        """Return f / |f| of every row, (n, d), in eval mode."""
        training = ctx.model.training
        ctx.model.eval()
        found = []
        for part in batch.split(1024):
            ctx.model(part.inputs)
            found.append(F.normalize(self._activations.last, dim=1))
        ctx.model.train(training)
        return torch.cat(found)
