"""Predictions of a learner, and its loss on rows that it does not learn."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from incr_core.batch import Batch, Inputs, map_inputs, split_inputs
from incr_core.errors import IncrError
from incr_core.learner._forwards import Forwards
from incr_core.numerics import Precision
from incr_core.objectives import Objective

__all__ = ["OF_ROWS", "Predicting", "in_words", "may_be_of_rows"]

OF_ROWS = (IndexError, KeyError, RuntimeError, ValueError, TypeError, AssertionError, ArithmeticError)
"""Errors that a forward raises for an unsupported row, such as an id without an embedding."""


class Predicting:
    """The part of a learner that predicts, without learning.

    The attributes `model`, `objective`, `device`, `precision` and `forwards` are those of the learner.
    """

    model: nn.Module
    objective: Objective
    device: torch.device
    precision: Precision
    forwards: Forwards

    # Not `inference_mode`: a model (or FSDP) may cache tensors here that it must be able to learn with later.
    @torch.no_grad()
    def predict(self, inputs: Inputs, batch_size: int = 8192) -> Tensor:
        """Return the objective's predictions for inputs (B, ...), on the CPU."""
        self.forwards.set_mode(training=False)
        rows = _count(inputs)
        with self.forwards.predicting(), self.precision.autocast():
            if rows <= batch_size:
                return self._predicted(inputs)
            return torch.cat([self._predicted(part) for part in split_inputs(inputs, batch_size)])

    def answers(self, inputs: Inputs, most: int = 1000) -> tuple[Tensor, dict[int, str]]:
        """Return the predictions for the rows that the model supports, and the errors of the other rows, by place.

        A row belongs to the latter if its forward alone raises an error. Such rows are found by bisection, which stops
        when there are more than `most`.
        """
        untaken: dict[int, str] = {}
        found = [one for one in self._taken(inputs, 0, untaken, most) if len(one)]
        return torch.cat(found) if found else torch.empty(0), untaken

    def _taken(self, inputs: Inputs, start: int, untaken: dict[int, str], most: int) -> Iterator[Tensor]:
        if len(untaken) > most:
            return
        try:
            yield self.predict(inputs)
        except OF_ROWS as error:
            if not may_be_of_rows(error):
                raise
            if _count(inputs) == 1:
                untaken[start] = in_words(error)
                return
            half = (_count(inputs) + 1) // 2
            for place, part in enumerate(split_inputs(inputs, half)):
                yield from self._taken(part, start + place * half, untaken, most)

    def _predicted(self, inputs: Inputs) -> Tensor:
        there = map_inputs(lambda value: value.to(self.device), inputs)
        return self.objective.predict(self.model(there)).cpu()

    @torch.no_grad()
    def loss_of(self, rows: Batch, batch_size: int = 8192) -> float:
        """Return the objective's mean loss on some rows, in eval mode."""
        self.forwards.set_mode(training=False)
        total = weight = 0.0
        with self.forwards.predicting(), self.precision.autocast():
            for part in rows.to(self.device).split(batch_size):
                share = float(part.total_weight())
                total += share * float(self.objective(self.model(part.inputs), part.targets, part.weights))
                weight += share
        return total / weight if weight else 0.0


def in_words(error: BaseException) -> str:
    """Return an error of another library as one line.

    Example:
        >>> in_words(IndexError("index out of range in self"))
        'IndexError: index out of range in self'
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def may_be_of_rows(error: BaseException) -> bool:
    """Whether rows may have caused an error: not an error of ours, and not a GPU error, after which nothing can run."""
    return not isinstance(error, IncrError | torch.OutOfMemoryError | torch.AcceleratorError)


def _count(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
