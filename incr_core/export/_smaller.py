"""Pruning of a model at export, and the size of the files before and after."""

from __future__ import annotations

import math
import zlib
from typing import Any

from torch import nn
from torch.nn.utils import prune

from incr_core.errors import ArgumentError, JobError

__all__ = ["check_share", "prune_globally", "size_of", "zeros_in"]


def check_share(share: float | None) -> float | None:
    """Return the share of weights to prune, or raise ArgumentError if it is not between 0 and 1."""
    if share is not None and not 0 < share < 1:
        raise ArgumentError(f"prune: expected a share of weights between 0 and 1, got {share:g}")
    return share


def prune_globally(model: nn.Module, share: float) -> None:
    """Set the weights of the smallest size to 0, of all linear and convolutional layers together.

    Embeddings and biases are not pruned: their sizes do not compare with those of a layer's weights.

    Args:
        model: The model.
        share: Share of the weights that are 0 afterwards.

    Raises:
        JobError: The model has no such layer.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
        >>> prune_globally(model, 0.5)
        >>> zeros_in(model)
        {'weights': 40, 'zero': 20}
    """
    layers = _layers(model)
    if not layers:
        raise JobError(
            f"prune: expected a model with nn.Linear or nn.Conv2d layers, got {type(model).__name__}; leave --prune out"
        )
    prune.global_unstructured(
        [(layer, "weight") for layer in layers], pruning_method=prune.L1Unstructured, amount=share
    )
    for layer in layers:
        prune.remove(layer, "weight")


def zeros_in(model: nn.Module) -> dict[str, int]:
    """Return the number of weights of linear and convolutional layers, and how many of them are 0."""
    weights = [layer.weight.detach() for layer in _layers(model)]
    return {
        "weights": sum(math.prod(weight.shape) for weight in weights),
        "zero": sum(int((weight == 0).sum()) for weight in weights),
    }


def size_of(content: bytes) -> dict[str, Any]:
    """Return the size of a file, and its size if it is compressed as in a zip archive.

    Example:
        >>> size_of(bytes(1000))
        {'bytes': 1000, 'zipped': 17}
    """
    return {"bytes": len(content), "zipped": len(zlib.compress(content))}


def _layers(model: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """Return the layers that are pruned, each once."""
    return [part for part in model.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
