"""Masks of pruned layers: which weights a layer uses, as part of the model's state."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from incr_core.errors import ArgumentError
from incr_core.models._patterns import Patterns, modules_matching

__all__ = ["MagnitudeMask", "MovementMask", "is_pruned", "magnitude_pruning", "movement_pruning"]


def magnitude_pruning(model: nn.Module, target: Patterns = "*") -> nn.Module:
    """Give each layer a mask, by which `strategies.Pruning` removes the weights of the smallest size.

        y = (W * M) x + b        M: 1 where a weight is used, 0 where it is pruned; initially 1

    A pruned weight is 0, gets no gradient and stays pruned. The masks are buffers of the model: they are saved, merged
    and published with the weights.

    Args:
        model: The model.
        target: Patterns of names of nn.Linear or nn.Conv2d modules.

    Example:
        >>> model = magnitude_pruning(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), target="0")
        >>> [name for name, _ in model.named_buffers()]
        ['0.parametrizations.weight.0.prune_mask']

    Reference:
        Han et al. 2015, "Learning both weights and connections for efficient neural networks", section 3; Zhu & Gupta
        2018, "To prune, or not to prune", section 3.
    """
    return _masked(model, target, MagnitudeMask, "magnitude_pruning.target")


def movement_pruning(model: nn.Module, target: Patterns = "*") -> nn.Module:
    """Give each layer a mask and scores, by which `strategies.Pruning` removes the weights that move towards 0.

        y = (W * M) x + b        M: 1 for the weights with the largest scores S
        dL/dS = dL/d(W * M) * W  so S grows where steps increase |W|, also where a weight is pruned

    Scores are trainable weights, initially 0, and the optimiser updates them. A pruned weight keeps its value, gets no
    gradient, and is used again if its score becomes large enough. Intended for a model with pretrained weights.

    Args:
        model: The model.
        target: Patterns of names of nn.Linear or nn.Conv2d modules.

    Example:
        >>> model = movement_pruning(nn.Sequential(nn.Linear(4, 4)))
        >>> [name.rpartition(".")[2] for name, _ in model.named_parameters()]
        ['bias', 'original', 'prune_scores']

    Reference:
        Sanh et al. 2020, "Movement pruning: adaptive sparsity by fine-tuning", section 4.
    """
    return _masked(model, target, MovementMask, "movement_pruning.target")


class MagnitudeMask(nn.Module):
    """The mask of one weight tensor; see `magnitude_pruning`.

    Attributes:
        prune_mask: True where a weight is used, in the shape of the weight.

    Example:
        >>> mask = MagnitudeMask(torch.ones(2))
        >>> mask.prune_mask[0] = False
        >>> mask(torch.tensor([3.0, 4.0]))
        tensor([0., 4.])
    """

    draws_nothing: ClassVar[bool] = True

    prune_mask: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("prune_mask", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with 0 where it is pruned."""
        return weight * self.prune_mask


class MovementMask(MagnitudeMask):
    """The mask and the scores of one weight tensor; see `movement_pruning`.

    Attributes:
        prune_scores: Scores, in the shape of the weight.

    Example:
        >>> mask = MovementMask(torch.ones(1))
        >>> mask(torch.tensor([-2.0])).backward()
        >>> mask.prune_scores.grad
        tensor([-2.])
    """

    draws_nothing: ClassVar[bool] = True

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self.prune_scores = nn.Parameter(torch.zeros_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with 0 where it is pruned."""
        # The second term is 0. Its gradient with respect to the scores is that of W * M, times W (straight-through).
        return weight * self.prune_mask + (self.prune_scores - self.prune_scores.detach()) * weight.detach()


def is_pruned(model: nn.Module) -> bool:
    """Whether a model has masks.

    Example:
        >>> is_pruned(nn.Linear(2, 2)), is_pruned(magnitude_pruning(nn.Sequential(nn.Linear(2, 2))))
        (False, True)
    """
    return any(isinstance(part, MagnitudeMask) for part in model.modules())


def _masked(model: nn.Module, target: Patterns, kind: type[MagnitudeMask], place: str) -> nn.Module:
    found = modules_matching(model, target, (nn.Linear, nn.Conv2d), place)
    uses = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    for name, layer in found:
        if parametrize.is_parametrized(layer):
            raise ArgumentError(
                f"{place}: expected layers of plain weights, got {name}, of which one is computed from others; "
                "narrow the pattern, or prune first"
            )
        weight = layer.weight
        assert isinstance(weight, Tensor)
        if uses[id(weight)] > 1:
            raise ArgumentError(
                f"{place}: expected weights that one layer uses, got that of {name}, which another module shares; "
                "narrow the pattern"
            )
        parametrize.register_parametrization(layer, "weight", kind(weight.detach()))
    return model
