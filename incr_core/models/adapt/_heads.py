"""Task heads: one last layer per task, selected for each row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from incr_core._util import at_least_one
from incr_core.batch import Batch, Inputs
from incr_core.errors import ArgumentError
from incr_core.models._patterns import replace_module
from incr_core.models._penultimate import head_of

__all__ = ["TaskHeads", "split_task", "task_heads", "with_task"]


def task_heads(model: nn.Module, tasks: int = 2) -> nn.Module:
    """Give the model one last linear layer per task, selected by each row's task.

        output_i = W[t_i] f_i + b[t_i]

    All heads start as copies of the model's own. The model takes the task with its inputs, as `with_task` puts it
    there, because predictions need it too. To keep a head fixed while other tasks are learned, add the strategy
    `isolate`.

    Args:
        model: The model.
        tasks: Number of tasks.

    Example:
        >>> import torch
        >>> model = task_heads(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), tasks=5)
        >>> model({"inputs": torch.randn(7, 3), "task": torch.arange(7) % 5}).shape
        torch.Size([7, 2])

    Reference:
        Li & Hoiem 2018 (LwF), figure 2; van de Ven & Tolias 2019, on the availability of the task.
    """
    at_least_one("task_heads.tasks", tasks)
    last = head_of(model, "task_heads")
    heads = TaskHeads(last, tasks)
    name = next((name for name, module in model.named_modules() if module is last), "")
    if not name:
        raise ArgumentError("task_heads: expected a model around its last layer, got a bare nn.Linear; wrap it")
    replace_module(model, name, heads)
    model.register_forward_pre_hook(heads.route)
    return model


class TaskHeads(nn.Module):
    """`tasks` parallel linear layers; see `task_heads`. weight: (tasks, out, in), bias: (tasks, out)."""

    per_task: ClassVar[tuple[str, ...]] = ("weight", "bias")
    """Weights whose first dimension is the task."""

    transient: ClassVar[tuple[str, ...]] = ("_task",)

    def __init__(self, last: nn.Linear, tasks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(last.weight.detach().expand(tasks, -1, -1).clone())
        bias = last.weight.new_zeros(last.out_features) if last.bias is None else last.bias.detach()
        self.bias = nn.Parameter(bias.expand(tasks, -1).clone())
        self._task: Tensor | None = None

    def route(self, model: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Remove the task from the model's inputs, and pass on the rest."""
        inputs, self._task = split_task(arguments[0], "task_heads")
        return (inputs, *arguments[1:])

    def forward(self, activations: Tensor) -> Tensor:
        """Map activations (B, in) to outputs (B, out)."""
        assert self._task is not None, "the model's forward sets the task"
        # All heads in one product: they are small, and selecting rows first would synchronise with the device.
        tasks, out = self.bias.shape
        outputs = F.linear(activations, self.weight.flatten(0, 1), self.bias.flatten()).reshape(-1, tasks, out)
        chosen: Tensor = outputs.gather(1, self._task.reshape(-1, 1, 1).expand(-1, 1, out)).squeeze(1)
        return chosen


def split_task(inputs: Inputs, place: str) -> tuple[Inputs, Tensor]:
    """Return the inputs without the task, and the task (B,). A dict with a single remaining tensor becomes that tensor.

    Example:
        >>> import torch
        >>> split_task({"inputs": torch.zeros(1, 2), "task": torch.tensor([3])}, "example")
        (tensor([[0., 0.]]), tensor([3]))
    """
    if not isinstance(inputs, dict) or "task" not in inputs:
        raise ArgumentError(
            f'{place}: expected inputs that hold "task", the task of each row, '
            f"got {', '.join(inputs) if isinstance(inputs, dict) else 'a tensor'}; "
            "name the column in features.task, or use incr_core.models.adapt.with_task"
        )
    rest = {name: value for name, value in inputs.items() if name != "task"}
    return (next(iter(rest.values())) if len(rest) == 1 else rest), inputs["task"]


def with_task(batch: Batch) -> Batch:
    """Return the batch with its task among its inputs, where `task_heads` and `experts` expect it.

    Example:
        >>> import torch
        >>> batch = Batch(torch.zeros(1, 2), torch.zeros(1), task=torch.tensor([3]))
        >>> sorted(with_task(batch).inputs)
        ['inputs', 'task']
    """
    if batch.task is None:
        raise ArgumentError("with_task: expected a batch with tasks, got one without; name the column in features.task")
    inputs = batch.inputs if isinstance(batch.inputs, dict) else {"inputs": batch.inputs}
    return replace(batch, inputs={**inputs, "task": batch.task})
