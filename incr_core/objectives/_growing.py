"""Classes that arrive one by one: an objective with room for more than have been seen."""

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
    """One of the classes seen so far, out of at most `capacity`: a head that grows without changing its shape.

        l = -log softmax(output + m)[y]        m_c = 0 for classes seen, and so far down for others that p_c = 0

    The model has all `capacity` outputs from the start, so the optimiser's moments, memories, Fisher information,
    checkpoints and updates of participants that have not met a class all fit, always. An output not seen yet has
    probability 0 and gets a gradient of 0: what is learned equals what a model with only the seen outputs would have
    learned, and when a class arrives its row of the head is as it was drawn, but for weight decay.

    Which classes were seen is a count of each one's rows. It is a statistic like the moments of inputs: before an
    increment is learned the counts of all participants are added (`observe`), so a class that one participant meets is
    known to all in the same round. A batch's own targets always count as seen.

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
        """The mean loss."""
        return super().forward(self._masked(output, self._seen().index_fill(0, targets, True)), targets, weights)

    def rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """The loss of each row, (B,)."""
        return super().rows(self._masked(output, self._seen().index_fill(0, targets, True)), targets)

    def predict(self, output: Tensor) -> Tensor:
        """Class probabilities, (B, capacity), 0 for classes not seen; before any was, all count."""
        return super().predict(self.visible(output))

    def visible(self, output: Tensor) -> Tensor:
        """The output with classes not seen put out of reach, (B, capacity): for a loss of one's own, or an export."""
        seen = self._seen()
        return self._masked(output, seen | ~seen.any())

    def observe(self, targets: Tensor) -> dict[str, Tensor]:
        """How many rows of each class are about to be learned, (capacity,). ArgumentError beyond the capacity."""
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
        # Finite, so that 0 * log p is 0 in every distance between distributions.
        return output.masked_fill(~seen, torch.finfo(output.dtype).min / 2)
