"""Fingerprint of the learner that a state belongs to: strategy classes and weight shapes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from incr_core.errors import CheckpointError

__all__ = ["check_signature", "signature_of"]


def signature_of(strategies: Iterable[object], weights: Iterable[tuple[str, Tensor]]) -> dict[str, Any]:
    """Return the classes of the strategies, in order, and the shapes of the trainable weights by name; JSON-compatible.

    Example:
        >>> import torch
        >>> signature_of([], [("weight", torch.zeros(3, 4))])
        {'strategies': [], 'weights': {'weight': [3, 4]}}
    """
    return {
        "strategies": [type(strategy).__name__ for strategy in strategies],
        "weights": {name: list(weight.shape) for name, weight in weights},
    }


def check_signature(mine: Mapping[str, Any], theirs: Mapping[str, Any], with_state: Collection[int]) -> None:
    """Raise a CheckpointError if a state belongs to other strategies, or to another model.

    Args:
        mine: The signature of this learner.
        theirs: The signature in the state.
        with_state: Places of strategies that have state, here or there; the others may differ.

    Example:
        >>> check_signature({"strategies": ["EWC"]}, {"strategies": ["SI", "Replay"]}, [0, 1])
        Traceback (most recent call last):
        ...
        incr_core.errors.CheckpointError: learner.strategies: expected the state of EWC, got that of SI, Replay; use the
        same strategies, or start a new run
    """
    expected, got = (
        ", ".join(kind for place, kind in enumerate(found["strategies"]) if place in with_state) or "none"
        for found in (mine, theirs)
    )
    if expected != got:
        raise CheckpointError(
            f"learner.strategies: expected the state of {expected}, got that of {got}; "
            "use the same strategies, or start a new run"
        )
    for name in [*mine["weights"], *theirs["weights"]]:
        shapes = [found["weights"].get(name) for found in (mine, theirs)]
        if shapes[0] != shapes[1]:
            expected, got = ("none" if shape is None else f"a weight of shape {tuple(shape)}" for shape in shapes)
            raise CheckpointError(
                f"model.{name}: expected the state of {expected}, got that of {got}; "
                "use the same model, or start a new run"
            )
