"""A sharded model as a plain function of whole weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from incr_core.numerics._sharding import whole

__all__ = ["unsharded", "whole_weights"]


def whole_weights(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Copies or views of all weights, gathered from every shard: those that learn, and all else the model holds.

    >>> learn, fixed = whole_weights(nn.BatchNorm1d(1))
    >>> sorted(learn), sorted(fixed)
    (['bias', 'weight'], ['num_batches_tracked', 'running_mean', 'running_var'])
    """
    learn = {name: whole(weight.detach()) for name, weight in model.named_parameters() if weight.requires_grad}
    fixed = {name: whole(weight.detach()) for name, weight in model.named_parameters() if not weight.requires_grad}
    return learn, fixed | dict(model.named_buffers())


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Inside, `torch.func.functional_call` on a sharded model uses the weights it is given.

    FSDP gathers weights in a hook before each forward, and would put them in the place of those given: here the hooks
    rest. A model that is not sharded keeps its hooks.

    >>> with unsharded(nn.Linear(1, 1)):
    ...     pass
    """
    parts = [part for part in model.modules() if any(hasattr(w, "to_local") for w in part.parameters())]
    kept = [(part._forward_pre_hooks, part._forward_hooks) for part in parts]
    try:
        for part in parts:
            part._forward_pre_hooks, part._forward_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        for part, (before, after) in zip(parts, kept, strict=True):
            part._forward_pre_hooks, part._forward_hooks = before, after
