"""The few operations that must know whether a tensor is a shard (a DTensor) or whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["agreed", "as_reals", "like", "load_optimizer", "local", "optimizer_state", "whole"]


def local(tensor: Tensor) -> Tensor:
    """This worker's part of a tensor: the shard of a DTensor, or the tensor itself; a view.

    >>> import torch
    >>> local(torch.ones(2))
    tensor([1., 1.])
    """
    # Asked by attribute: importing DTensor costs a second at start, and one process alone never needs it.
    part = getattr(tensor, "to_local", None)
    return tensor if part is None else part()


def as_reals(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones, (..., 2), which are weights like others; any other tensor itself; a view.

    The gradient of a complex weight, so seen, is that of its pair.

    >>> import torch
    >>> as_reals(torch.tensor([1 + 2j])), as_reals(torch.ones(1))
    (tensor([[1., 2.]]), tensor([1.]))
    """
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor: gathered from every shard (a collective call), or the tensor itself.

    >>> import torch
    >>> whole(torch.ones(2))
    tensor([1., 1.])
    """
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """The part of `tensor` that belongs where `model` is: its shard of a whole tensor, if `model` is sharded.

    >>> import torch
    >>> like(torch.ones(2), torch.zeros(2))
    tensor([1., 1.])
    """
    if not _sharded(model) or _sharded(tensor):
        return local(tensor)
    from torch.distributed.tensor import distribute_tensor

    # Every worker has the whole tensor already, so nothing need be sent.
    mesh, placements = model.device_mesh, model.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(model.device), mesh, placements, src_data_rank=None).to_local()


def agreed(found: bool | None, model: Tensor) -> bool | None:
    """What all shards of a model may act on: False where one found False, else None where one found None.

    A collective call where `model`, one of its weights, is a shard.

    >>> import torch
    >>> agreed(True, torch.zeros(1))
    True
    """
    if not _sharded(model):
        return found
    from torch import distributed, tensor

    answers = [False, None, True]
    place = tensor(answers.index(found), device=model.device)
    group = model.device_mesh.get_group()  # type: ignore[attr-defined]
    distributed.all_reduce(place, distributed.ReduceOp.MIN, group=group)
    return answers[int(place)]


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """`optimizer.state_dict()` with this worker's part of each tensor, so that it can be kept without its peers."""
    state = optimizer.state_dict()
    kept = {
        place: {name: local(value) if isinstance(value, Tensor) else value for name, value in moments.items()}
        for place, moments in state["state"].items()
    }
    return {**state, "state": kept}


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Take back what `optimizer_state` gave, for the same parameters in the same shards."""
    parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
    loaded = {
        place: {name: _resharded(value, parameters[place]) for name, value in moments.items()}
        for place, moments in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": loaded})


def _resharded(value: Any, parameter: Tensor) -> Any:
    """A shard of a parameter's moment as what it was; other state, such as a step count, as it is."""
    if not _sharded(parameter) or not isinstance(value, Tensor) or value.shape != local(parameter).shape:
        return value
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        value.to(parameter.device),
        parameter.device_mesh,  # type: ignore[attr-defined]
        parameter.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def _sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "to_local")
