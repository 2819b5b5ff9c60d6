"""Multiclass objective for classes that arrive over time."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from incr_core.errors import ArgumentError
from incr_core.objectives._balance import Balance
from incr_core.objectives._base import Multiclass
from incr_core.objectives._losses import Loss

__all__ = ["GrowingMulticlass"]


class GrowingMulticlass(Multiclass):
    """Multiclass classification of the classes seen so far, out of at most `capacity`.

        l = -log softmax(output + m)[y]        m_c = 0 for classes seen, and so low for others that p_c = 0

    The model has all `capacity` outputs from the start. Optimiser moments, memories, Fisher information, checkpoints
    and updates of participants without a class therefore always have matching shapes. An unseen output has probability
    0 and a gradient of 0: learning equals that of a model with the seen outputs only. When a class arrives, its row of
    the head has its initial values, apart from weight decay.

    The rows of each class are counted. The count is a statistic like the moments of inputs: the counts of all
    participants are added before an increment is learned (`observe`), so a class that one participant sees is known to
    all in the same round. The targets of a batch always count as seen.

    Args:
        capacity: Maximum number of classes.
        loss: As for `Multiclass`.

    Example:
        >>> objective = GrowingMulticlass(4)
        >>> objective.counts += objective.observe(torch.tensor([0, 2, 2]))["counts"]
        >>> objective.predict(torch.zeros(1, 4))
        tensor([[0.5000, 0.0000, 0.5000, 0.0000]])
    """

    merge: ClassVar[dict[str, str]] = {"counts": "sum"}
    counts: Tensor

    def __init__(self, capacity: int, loss: Loss | None = None, balance: Balance | None = None) -> None:
        super().__init__(capacity, loss, balance)
        self.register_buffer("counts", torch.zeros(capacity, dtype=torch.float64))

    def forward(self, output: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean loss."""
        return super().forward(self._masked(output, self._seen().index_fill(0, targets, True)), targets, weights)

    def rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row, (B,)."""
        return super().rows(self._masked(output, self._seen().index_fill(0, targets, True)), targets)

    def predict(self, output: Tensor) -> Tensor:
        """Return class probabilities, (B, capacity), 0 for unseen classes; if none was seen, all count."""
        return super().predict(self.visible(output))

    def visible(self, output: Tensor) -> Tensor:
        """Return the output with unseen classes masked, (B, capacity), for custom losses and exports."""
        seen = self._seen()
        return self._masked(output, seen | ~seen.any())

    def observe(self, targets: Tensor) -> dict[str, Tensor]:
        """Return the number of rows of each class about to be learned, (capacity,).

        Raises:
            ArgumentError: A class number is not below the capacity.
        """
        highest = int(targets.max()) if len(targets) else -1
        if highest >= self.outputs:
            raise ArgumentError(
                f"growing.capacity: expected classes numbered below {self.outputs}, got {highest}; "
                f"start a new run with a capacity of at least {highest + 1}"
            )
        return {"counts": F.one_hot(targets, self.outputs).sum(0).double(), **super().observe(targets)}

    def _seen(self) -> Tensor:
        return self.counts > 0

    def _masked(self, output: Tensor, seen: Tensor) -> Tensor:
        # Finite, so that 0 * log p is 0 in every divergence.
        return output.masked_fill(~seen, torch.finfo(output.dtype).min / 2)
