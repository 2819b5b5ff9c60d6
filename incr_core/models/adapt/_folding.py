"""Plain layers in place of those whose weight is masked or rounded."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from incr_core.models.adapt._pruning import MagnitudeMask
from incr_core.models.adapt._qat import RoundedWeight

__all__ = ["fold_weights"]


def fold_weights(model: nn.Module) -> None:
    """Make plain layers of those with masks or rounded weights: their weight is the one that they compute with.

    Example:
        >>> from incr_core.models.adapt import magnitude_pruning
        >>> model = magnitude_pruning(nn.Sequential(nn.Linear(2, 2)))
        >>> fold_weights(model)
        >>> model
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
        )
    """
    for layer in list(model.modules()):
        if not isinstance(layer, nn.Linear | nn.Conv2d) or not parametrize.is_parametrized(layer, "weight"):
            continue
        if any(isinstance(part, MagnitudeMask | RoundedWeight) for part in layer.modules()):
            weight = nn.Parameter(layer.weight.detach(), requires_grad=layer.weight.requires_grad)
            kind = parametrize.type_before_parametrizations(layer)
            # `parametrize.remove_parametrizations` also changes the class of the layer, which copies of it share.
            del layer.parametrizations
            layer.__class__ = kind
            layer.weight = weight
