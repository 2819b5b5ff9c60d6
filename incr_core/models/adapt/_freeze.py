"""Freezing of weights."""

from __future__ import annotations

from torch import nn

from incr_core.errors import ArgumentError
from incr_core.models._modes import stay_in_eval
from incr_core.models._patterns import Patterns, matches, only_these_learn
from incr_core.models._penultimate import head_of
from incr_core.numerics import BatchNorm

__all__ = ["bitfit", "freeze", "freeze_statistics", "head_only"]


def freeze(model: nn.Module, names: Patterns | None = None, train: Patterns | None = None) -> nn.Module:
    """Freeze the weights that match `names`, or all but those that match `train`.

    Frozen weights get no gradient and are not passed to the optimiser, so neither momentum nor weight decay moves them,
    and strategies keep no state for them. BatchNorm layers without trainable weights use their existing statistics and
    do not update them.

    Args:
        model: The model.
        names: Patterns of names as in `named_parameters`, such as "layers.0.*", or of modules.
        train: The same; exactly one of the two must be given.

    Raises:
        ArgumentError: Both or none are given, a pattern matches nothing, or no weight would be trainable.

    Example:
        >>> model = freeze(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), train="1.*")
        >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
        ['1.weight', '1.bias']
    """
    if (names is None) == (train is None):
        raise ArgumentError("freeze: expected either names (what to freeze) or train (what learns), got both or none")
    if train is not None:
        only_these_learn(model, train, "freeze.train")
    else:
        assert names is not None
        patterns = [names] if isinstance(names, str) else list(names)
        everything = [name for name, _ in model.named_parameters()]
        for pattern in patterns:
            if not any(matches(name, [pattern, f"{pattern}.*"]) for name in everything):
                only_these_learn(model, pattern, "freeze.names")  # raises, naming what there is
        kept = [n for n in everything if not matches(n, [*patterns, *(f"{pattern}.*" for pattern in patterns)])]
        if not kept:
            raise ArgumentError(
                f"freeze.names: expected a weight to be left to learn, got {names!r}, which matches all"
            )
        only_these_learn(model, kept, "freeze.names")
    freeze_statistics(model)
    return model


def bitfit(model: nn.Module, train: Patterns | None = None) -> nn.Module:
    """Make only biases and the last linear layer trainable.

    Args:
        model: The model.
        train: Patterns of further trainable weights; by default the last linear layer.

    Example:
        >>> model = bitfit(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
        >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
        ['0.bias', '1.weight', '1.bias']

    Reference:
        Ben Zaken et al. 2022, "BitFit", section 3.
    """
    also = [_head_name(model, "bitfit")] if train is None else [train] if isinstance(train, str) else list(train)
    if not any(name.rpartition(".")[2] == "bias" for name, _ in model.named_parameters()):
        raise ArgumentError(
            f"bitfit: expected a model with biases, got {type(model).__name__} without; use lora or freeze"
        )
    biases = [name for name, _ in model.named_parameters() if name.rpartition(".")[2] == "bias"]
    only_these_learn(model, [*biases, *also], "bitfit.train")
    freeze_statistics(model)
    return model


def head_only(model: nn.Module) -> nn.Module:
    """Make only the last linear layer trainable: a linear probe.

    Example:
        >>> model = head_only(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
        >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
        ['1.weight', '1.bias']
    """
    only_these_learn(model, _head_name(model, "head_only"), "head_only")
    freeze_statistics(model)
    return model


def freeze_statistics(model: nn.Module) -> None:
    """Keep BatchNorm layers without trainable weights in eval mode, whatever mode the model is put in.

    Example:
        >>> norm = nn.BatchNorm1d(1).requires_grad_(False)
        >>> freeze_statistics(norm)
        >>> import torch
        >>> _ = norm.train()(torch.full((4, 1), 9.0)); norm.running_mean
        tensor([0.])
    """
    for module in model.modules():
        if isinstance(module, BatchNorm) and not any(weight.requires_grad for weight in module.parameters()):
            stay_in_eval(module)


def _head_name(model: nn.Module, place: str) -> str:
    head = head_of(model, place)
    name: str = next(name for name, module in model.named_modules() if module is head)
    return name
