"""Functional application of a model to whole weights, sharded models included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from incr_core.batch import Inputs
from incr_core.numerics._sharding import whole
from incr_core.numerics._torch_privates import without_forward_hooks

__all__ = ["Applied", "unsharded", "whole_weights"]


def whole_weights(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return copies or views of all weights, gathered from every shard: the trainable ones, and all other state.

    Example:
        >>> learn, fixed = whole_weights(nn.BatchNorm1d(1))
        >>> sorted(learn), sorted(fixed)
        (['bias', 'weight'], ['num_batches_tracked', 'running_mean', 'running_var'])
    """
    learn = {name: whole(weight.detach()) for name, weight in model.named_parameters() if weight.requires_grad}
    fixed = {name: whole(weight.detach()) for name, weight in model.named_parameters() if not weight.requires_grad}
    return learn, fixed | dict(model.named_buffers())


class Applied:
    """A model as a function of its weights, named as by `whole_weights`, and its inputs.

    It wraps `torch.func.functional_call`, which would otherwise leave a module that occurs twice in the model with the
    given weights. A buffer that the forward replaces is replaced in the dict of weights.

    Example:
        >>> import torch
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> model = nn.Sequential(layer, layer)
        >>> Applied(model)({"0.weight": torch.tensor([[3.0]])}, torch.tensor([[2.0]])).item()
        18.0
        >>> layer.weight.shape == (1, 1) and model[0].weight.requires_grad
        True
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        named: dict[Tensor, str] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            named.setdefault(tensor, name)
        self._names = {
            f"{prefix}.{own}".lstrip("."): named[tensor]
            for prefix, part in model.named_modules()
            for own, tensor in [*_own(part.named_parameters), *_own(part.named_buffers)]
        }

    def __call__(self, weights: dict[str, Tensor], inputs: Inputs) -> Any:
        """Return the model's output."""
        given = {place: weights[name] for place, name in self._names.items() if name in weights}
        output = functional_call(self.model, given, (inputs,), tie_weights=False)
        weights |= {self._names[place]: tensor for place, tensor in given.items()}
        return output


def _own(named: Callable[..., Iterator[tuple[str, Tensor]]]) -> Iterator[tuple[str, Tensor]]:
    return named(recurse=False, remove_duplicate=False)


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Make a sharded model use the weights that `Applied` passes.

    FSDP gathers weights in a hook before each forward, and would replace the passed ones; its hooks are disabled here.
    Other hooks are called.

    Example:
        >>> with unsharded(nn.Linear(1, 1)):
        ...     pass
    """
    parts = [part for part in model.modules() if any(hasattr(w, "to_local") for w in part.parameters())]
    with without_forward_hooks(parts, "torch.distributed.fsdp."):
        yield
