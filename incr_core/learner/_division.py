"""Division of a batch's rows among the shards of a model."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from incr_core.batch import Batch, share_of
from incr_core.errors import JobError
from incr_core.learner._independence import rows_independent
from incr_core.numerics import OwnChance, agreed
from incr_core.objectives import Objective

__all__ = ["Division", "Rows"]

Rows = Literal["independent", "together"]


class Division:
    """Divides the rows of batches among the shards of a model, if that does not change the result.

    FSDP averages gradients over a group's `size` shards. If the model, the objective and all strategies treat each row
    alone, shard k takes every size-th row starting with the k-th, and its mean loss is weighted by its rows. Otherwise
    each shard computes the whole batch.

    Args:
        model: The model.
        objective: Its objective.
        weight: A trainable weight, which determines the device and the process group.
        shard: (rank, size).
        rows: Whether rows are "independent" or "together"; None determines it from the first rows.
        possible: Whether the objective and all strategies treat each row alone.
        chance: Whether a forward draws random numbers; each shard then draws its own.
        smallest: Minimum number of rows that the model can learn from.

    Attributes:
        divides: Whether batches are divided.
        independent: Whether rows were found to be independent; None before the test.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1)
        >>> known = {"possible": True, "chance": False, "smallest": 1}
        >>> division = Division(model, Objective(), model.weight, (1, 2), "independent", **known)
        >>> part, copies = division.share(Batch(torch.arange(5.0), torch.arange(5.0)))
        >>> part.inputs.tolist(), copies
        ([1.0, 3.0], 0.8)
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        weight: Tensor,
        shard: tuple[int, int],
        rows: Rows | None,
        *,
        possible: bool,
        chance: bool,
        smallest: int,
    ) -> None:
        self._model = model
        self._objective = objective
        self.rank, self.size = shard
        self.rows = rows
        self.smallest = smallest
        self.independent: bool | None = None
        self._possible = possible and self.size > 1 and rows != "together"
        self.divides = self._possible and rows == "independent"
        self._weight = weight
        self.own_chance = OwnChance(weight.device, self.rank) if chance and self.divides else None

    @property
    def untried(self) -> bool:
        """Whether the first rows must be tested before a step is taken."""
        return self.size > 1 and self.independent is None

    def try_out(self, rows: Batch) -> None:
        """Determine from some rows whether batches may be divided. The model must be in training mode.

        Raises:
            JobError: The model cannot be sharded.
        """
        found = rows_independent(self._model, self._objective, rows, self.size)
        self.settle(agreed(found, self._weight))

    def settle(self, independent: bool | None) -> None:
        """Divide batches from now on, if the test found that this is allowed."""
        self.independent = independent
        if self.rows is None:
            self.divides = self._possible and independent is True
        synced = any(isinstance(layer, nn.SyncBatchNorm) for layer in self._model.modules())
        if synced and self.size > 1 and not self.divides:
            raise JobError(
                "cluster.shards: the model has SyncBatchNorm, which would count each row once a shard, since each "
                'takes whole batches; use BatchNorm, or set model.rows = "independent"'
            )

    def share(self, batch: Batch) -> tuple[Batch, float | Tensor]:
        """Return this shard's rows of a batch, and the factor that makes the group's mean gradient that of the whole
        batch.
        """
        if not self.divides or len(batch) < self.size * self.smallest:
            return batch, 1.0
        if self.own_chance is not None:
            self.own_chance.begin()
        part = batch.map(lambda tensor: tensor[self.rank :: self.size])
        return part, share_of(part.total_weight(), batch.total_weight()) * self.size
