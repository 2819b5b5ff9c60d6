"""An ensemble with one expert per task, and a gate that infers the task of a row."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from incr_core._util import at_least_one
from incr_core.batch import Inputs
from incr_core.errors import ArgumentError
from incr_core.models.adapt._heads import split_task

__all__ = ["Experts", "Gate", "experts"]


def experts(model: nn.Module, tasks: int = 2, features: int = 0) -> Experts:
    """Return an ensemble of copies of the model, one per task; see `Experts`.

    Args:
        model: The model.
        tasks: Number of tasks.
        features: Number of floating inputs per row, for the gate. 0 makes no gate, and tasks must be given.

    Example:
        >>> ensemble = experts(nn.Linear(3, 2), tasks=4)
        >>> ensemble({"inputs": torch.randn(5, 3), "task": torch.arange(5) % 4}).shape
        torch.Size([5, 2])
    """
    at_least_one("experts.tasks", tasks)
    return Experts([copy.deepcopy(model) for _ in range(tasks)], features)


class Experts(nn.Module):
    """Each row is processed by the expert of its task; a gate infers missing tasks.

        output_i = expert[t_i](x_i)        t_i given, or argmax_t log N(x_i; mean_t, diag(var_t))

    The gate is one Gaussian per task instead of the paper's autoencoder: its statistics are sums, collected during
    learning, so participants merge them exactly. An expert whose task has no row in a step gets no gradient, so
    optimiser state, momentum and weight decay do not change it either, and its predictions stay bit-identical.

    Inputs are a dict of "task" (B,) int64 and the experts' inputs, as `with_task` makes it; "task" may be missing only
    for predictions. A forward reads from the device once which tasks are present, so vmap is not supported.

    Args:
        members: The experts.
        features: Number of floating inputs per row, for the gate; 0 makes no gate.

    Reference:
        Aljundi et al. 2017, "Expert gate", section 3.
    """

    routes_rows: ClassVar[bool] = True
    """Whether rows take different paths, so that no single layer processes a whole batch."""

    def __init__(self, members: list[nn.Module], features: int = 0) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.gate = Gate(len(members), features) if features else None

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the experts' outputs, (B, ...)."""
        rest, task = _rest_and_task(inputs)
        if task is None:
            if self.training or self.gate is None:
                raise ArgumentError(
                    'experts: expected inputs that hold "task", got none; use incr_core.models.adapt.with_task, '
                    "or, to predict without, give the ensemble a gate (features = ...)"
                )
            task = self.gate(_floats(rest))
        elif self.training and self.gate is not None:
            self.gate.add(_floats(rest), task)
        present = torch.unique(task).tolist()
        if len(present) == 1:
            only: Tensor = self._member(present[0])(rest)
            return only
        places = [(task == member).nonzero().flatten() for member in present]
        answers = [self._member(m)(_take(rest, place)) for m, place in zip(present, places, strict=True)]
        return torch.cat(answers).index_select(0, torch.cat(places).argsort())

    def observe(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the additions of rows about to be learned to the statistics of their tasks' experts."""
        rest, task = _rest_and_task(inputs)
        measured: dict[str, Tensor] = {}
        for number, member in enumerate(self.members):
            observe = getattr(member, "observe", None)
            if observe is not None and task is not None:
                found = observe(_take(rest, (task == number).nonzero().flatten()))
                measured |= {f"members.{number}.{name}": value for name, value in found.items()}
        return measured

    def _member(self, task: int) -> nn.Module:
        if not 0 <= task < len(self.members):
            raise ArgumentError(
                f"experts: expected tasks from 0 to {len(self.members) - 1}, got {task}; "
                f"make room with tasks = {task + 1}"
            )
        return self.members[task]


class Gate(nn.Module):
    """Infers the task whose Gaussian gives a row the highest likelihood; see `Experts`.

    Attributes:
        sums: (3, tasks, F) of count, sum and sum of squares.

    Example:
        >>> gate = Gate(3, features=1)
        >>> gate.add(torch.tensor([[0.0], [1.0], [8.0], [9.0]]), torch.tensor([0, 0, 2, 2]))
        >>> gate(torch.tensor([[2.0], [7.0]])).tolist()
        [0, 2]
    """

    merge: ClassVar[dict[str, str]] = {"sums": "sum"}
    sums: Tensor

    def __init__(self, tasks: int, features: int) -> None:
        super().__init__()
        self.tasks = tasks
        self.register_buffer("sums", torch.zeros(3, tasks, features, dtype=torch.float64))

    @torch.no_grad()
    def add(self, values: Tensor, task: Tensor) -> None:
        """Add rows (B, F) of these tasks (B,)."""
        values = values.double()
        members = F.one_hot(task, self.tasks).double().t()
        self.sums += torch.stack([members @ torch.ones_like(values), members @ values, members @ values.square()])

    @torch.no_grad()
    def forward(self, values: Tensor) -> Tensor:
        """Return the most likely task of each row, (B,); 0 without statistics."""
        count, total, square = self.sums
        known = count.clamp(min=1.0)
        mean = total / known
        rows = count.sum(0).clamp(min=1.0)
        pooled = square.sum(0) / rows - (total.sum(0) / rows).square()
        # A feature that is constant within a task must not decide alone.
        variance = (square / known - mean.square()).clamp(min=0.0) + 0.01 * pooled.clamp(min=0.0) + 1e-9
        apart = (values.double()[:, None] - mean).square() / variance + variance.log()
        likeliest: Tensor = apart.sum(2).masked_fill(count[:, 0] == 0, torch.inf).argmin(1)
        return likeliest


def _rest_and_task(inputs: Inputs) -> tuple[Inputs, Tensor | None]:
    if isinstance(inputs, dict) and "task" in inputs:
        return split_task(inputs, "experts")
    return (next(iter(inputs.values())) if isinstance(inputs, dict) and len(inputs) == 1 else inputs), None


def _floats(inputs: Inputs) -> Tensor:
    tensors = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
    return torch.cat([value.flatten(1).nan_to_num() for value in tensors if value.is_floating_point()], dim=1)


def _take(inputs: Inputs, place: Tensor) -> Inputs:
    if isinstance(inputs, dict):
        return {name: value.index_select(0, place) for name, value in inputs.items()}
    return inputs.index_select(0, place)
