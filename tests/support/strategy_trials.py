"""What every strategy is tried on, on a CPU and on a GPU: how to turn it off, its arguments, its model and its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from incr_core.batch import Batch
from incr_core.models.adapt import NearestMean, lda, task_heads, with_task
from incr_core.testing._trial import three_classes

__all__ = ["ARGUMENTS", "INCREMENTS", "MODELS", "ZERO"]

ZERO: dict[str, dict[str, float]] = {
    "agem": {"rows": 0},
    "der": {"logits": 0.0, "labels": 0.0},
    "elastic": {"l1": 0.0, "l2": 0.0},
    "ewc": {"strength": 0.0},
    "features": {"strength": 0.0},
    "fedprox": {"strength": 0.0},
    "gdumb": {"passes": 0},
    "l2sp": {"strength": 0.0},
    "lwf": {"strength": 0.0},
    "mas": {"strength": 0.0},
    "mir": {"ratio": 0.0},
    "outliers": {"strength": 0.0},
    "packnet": {"tasks": 1},
    "replay": {"ratio": 0.0},
    "selective": {"beta": 0.0},
    "si": {"strength": 0.0},
    "small_loss": {"rate": 0.0},
}
"""The arguments that turn a strategy off. One that has no strength has no entry."""

ARGUMENTS: dict[str, dict[str, Any]] = {
    "gdumb": {"passes": 1},
    "outliers": {"threshold": 0.7, "window": 50},
    "selective": {"history": 20},
    "small_loss": {"warmup": 4, "history": 20},
}
"""Arguments other than the defaults, where those would take minutes, or do nothing on so few rows."""


def layers(head: nn.Module) -> nn.Sequential:
    """4 numbers in, 3 classes out."""
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.2), head)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "icarl": lambda: layers(NearestMean(16, 3)),
    "isolate": lambda: task_heads(layers(nn.Linear(16, 3)), tasks=3),
    "slda": lambda: lda(layers(nn.Linear(16, 3)), frozen=False),
}
"""Models of strategies that need one of a kind."""

INCREMENTS: dict[str, list[Batch]] = {
    "isolate": [
        with_task(replace(labelled, task=torch.full((len(labelled),), day)))
        for day, labelled in enumerate(three_classes())
    ]
}
"""Rows for strategies that need some of a kind."""
