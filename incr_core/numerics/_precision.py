"""The precision of forwards: single, or half under autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from incr_core.errors import JobError

__all__ = ["Precision"]

TYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Precision:
    """In which precision a model runs forward on a device.

    name: "float32", or "bfloat16" and "float16" for autocast. scaler: for float16, which scales the loss up before the
    backward and the gradients down after it, and leaves out a step whose gradients overflow.
    sharded: whether the model is.

    >>> with Precision("bfloat16", torch.device("cpu")).autocast():
    ...     torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype
    torch.bfloat16
    """

    def __init__(self, name: str, device: torch.device, sharded: bool = False) -> None:
        if name not in TYPES:
            raise JobError(f"learner.precision: expected one of {', '.join(TYPES)}, got {name!r}")
        if name == "float16" and sharded:
            raise JobError('learner.precision: "float16" cannot be sharded, its scale is one; use "bfloat16"')
        self.name = name
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type) if name == "float16" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which forwards run in this precision."""
        kind = TYPES[self.name]
        return nullcontext() if kind is None else torch.autocast(self.device.type, kind)
