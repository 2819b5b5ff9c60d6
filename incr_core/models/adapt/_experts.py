"""An ensemble with an expert for each task, and a gate that knows whose rows are whose."""

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
    """An ensemble of copies of the model, one a task; see `Experts`.

    features: how many floating numbers a row's inputs hold, for the gate to judge by; 0: no gate, tasks are told.

    >>> ensemble = experts(nn.Linear(3, 2), tasks=4)
    >>> ensemble({"inputs": torch.randn(5, 3), "task": torch.arange(5) % 4}).shape
    torch.Size([5, 2])
    """
    at_least_one("experts.tasks", tasks)
    return Experts([copy.deepcopy(model) for _ in range(tasks)], features)


class Experts(nn.Module):
    """Each row is answered by the expert of its task; where the task is not told, a gate guesses it.

        output_i = expert[t_i](x_i)        t_i told, or argmax_t log N(x_i; mean_t, diag(var_t))

    Aljundi et al. 2017, "Expert gate", section 3, with a Gaussian a task for a gate in place of their autoencoder: its
    statistics are sums, gathered while learning, so participants merge them exactly. An expert whose task has no row in
    a step gets no gradient at all, so optimiser state, momentum and weight decay rest too, and its answers stay
    the same bit for bit.

    inputs: a dict of "task" (B,) int64 and what the experts take, as `with_task` makes; without "task" only to predict.
    A forward asks the device once which tasks are present, so the experts know no vmap.
    """

    routes_rows: ClassVar[bool] = True
    """Whether rows go through different layers: none of these sees a whole batch."""

    def __init__(self, members: list[nn.Module], features: int = 0) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.gate = Gate(len(members), features) if features else None

    def forward(self, inputs: Inputs) -> Tensor:
        """(B, ...), as the experts'."""
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
        """What rows about to be learned add to the statistics of their tasks' experts."""
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
    """The task under whose Gaussian a row is likeliest; see `Experts`. sums: (3, tasks, F) of count, sum and squares.

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
        """Take in rows (B, F) of these tasks (B,)."""
        values = values.double()
        members = F.one_hot(task, self.tasks).double().t()
        self.sums += torch.stack([members @ torch.ones_like(values), members @ values, members @ values.square()])

    @torch.no_grad()
    def forward(self, values: Tensor) -> Tensor:
        """The likeliest task of each row, (B,); 0 where nothing is known."""
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
