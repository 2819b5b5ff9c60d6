"""Training and eval mode of a model's parts: choices of the factory that learning must not override."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from incr_core.numerics import RunningNorm, has_pre_hook

__all__ = ["answering", "keep_frozen_in_eval", "stay_in_eval"]


def keep_frozen_in_eval(model: nn.Module) -> None:
    """Keep frozen parts of a model in eval mode, whatever mode the model is put in.

    A part is frozen if it is in eval mode inside a model in training mode: its Dropout stays off, and its statistics
    stay fixed. A model that is in eval mode as a whole, as `from_pretrained` returns it, is not frozen. Norms whose own
    weights are all frozen (`requires_grad_(False)`) do not update statistics either: a scale learned for one
    distribution does not suit another.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.BatchNorm1d(1).eval(), nn.BatchNorm1d(1))
        >>> keep_frozen_in_eval(model)
        >>> _ = model.train()(torch.tensor([[1.0], [3.0]]))
        >>> bool(model[0].running_mean), model[1].num_batches_tracked.item()
        (False, 1)
    """
    parts = list(model.modules())
    whole = not any(part.training for part in parts)
    for part in parts:
        weights = list(part.parameters(recurse=False))
        untaught = isinstance(part, RunningNorm) and weights and not any(weight.requires_grad for weight in weights)
        if untaught or not (part.training or whole):
            stay_in_eval(part)


def stay_in_eval(module: nn.Module) -> None:
    """Keep one module, without its submodules, in eval mode, whatever mode it is put in.

    Example:
        >>> dropout = nn.Dropout(0.5)
        >>> stay_in_eval(dropout)
        >>> import torch
        >>> dropout.train()(torch.ones(2))
        tensor([1., 1.])
    """
    # By a hook, because training mode is set with `train()` on the whole model.
    if not has_pre_hook(module, _leave_training):
        module.register_forward_pre_hook(_leave_training)
    module.training = False


def _leave_training(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    module.training = False


@contextmanager
def answering(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode in the context, and restore the mode of every part at exit.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with answering(model):
        ...     model[0].training
        False
        >>> [part.training for part in model]
        [True, False]
    """
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
