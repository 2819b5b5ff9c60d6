"""Operations that distinguish shards (DTensors) from whole tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["agreed", "as_reals", "like", "load_optimizer", "local", "optimizer_state", "whole"]


def local(tensor: Tensor) -> Tensor:
    """Return this worker's part of a tensor: the shard of a DTensor, or the tensor itself; a view.

    Example:
        >>> import torch
        >>> local(torch.ones(2))
        tensor([1., 1.])
    """
    # Tested by attribute: importing DTensor costs a second at start, and a single process never needs it.
    part = getattr(tensor, "to_local", None)
    return tensor if part is None else part()


def as_reals(tensor: Tensor) -> Tensor:
    """View complex numbers as pairs of real ones, (..., 2); return any other tensor itself.

    The gradient of a complex weight, viewed this way, is that of its pair.

    Example:
        >>> import torch
        >>> as_reals(torch.tensor([1 + 2j])), as_reals(torch.ones(1))
        (tensor([[1., 2.]]), tensor([1.]))
    """
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return the whole tensor, gathered from every shard (a collective call), or the tensor itself.

    Example:
        >>> import torch
        >>> whole(torch.ones(2))
        tensor([1., 1.])
    """
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """Return the part of `tensor` that corresponds to `model`: its shard, if `model` is sharded.

    Example:
        >>> import torch
        >>> like(torch.ones(2), torch.zeros(2))
        tensor([1., 1.])
    """
    if not _sharded(model) or _sharded(tensor):
        return local(tensor)
    from torch.distributed.tensor import distribute_tensor

    # Every worker has the whole tensor already, so no communication is needed.
    mesh, placements = model.device_mesh, model.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(model.device), mesh, placements, src_data_rank=None).to_local()


def agreed(found: bool | None, model: Tensor) -> bool | None:
    """Combine the findings of all shards of a model: False if any found False, else None if any found None, else True.

    It is a collective call if `model`, one of the weights, is a shard.

    Example:
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
    """Return `optimizer.state_dict()` with this worker's shard of each tensor, so that it can be saved alone."""
    state = optimizer.state_dict()
    kept = {
        place: {name: local(value) if isinstance(value, Tensor) else value for name, value in moments.items()}
        for place, moments in state["state"].items()
    }
    return {**state, "state": kept}


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Restore the state from `optimizer_state`, for the same parameters in the same shards."""
    parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
    loaded = {
        place: {name: _resharded(value, parameters[place]) for name, value in moments.items()}
        for place, moments in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": loaded})


def _resharded(value: Any, parameter: Tensor) -> Any:
    """Convert a shard of a parameter's moment back to a DTensor; return other state, such as counts, unchanged."""
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
