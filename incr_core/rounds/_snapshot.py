"""The state of a version in memory, for rolling back or for writing it while learning continues."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from incr_core.storage import checkpoint
from incr_core.storage.packing import pack, unpack
from incr_core.update import Weights

__all__ = ["Snapshot"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a version in memory: copies of a contributor's weights, and of all other state as tensors and JSON.

    Example:
        >>> import torch
        >>> one = Snapshot.of(1, {"w": torch.ones(1)}, {"step": torch.tensor(3)})
        >>> other = Snapshot.of(2, {"w": torch.zeros(1)}, {"step": torch.tensor(4)}, one)
        >>> other.weights, other.state(), other.weights["w"] is one.weights["w"]
        ({'w': tensor([0.])}, {'step': tensor(4)}, True)
    """

    version: int
    weights: Weights
    tensors: Weights
    structure: Any

    @classmethod
    def of(cls, version: int, weights: Weights, state: Any, before: Snapshot | None = None) -> Self:
        """Copy weights and state, reusing the memory of the snapshot `before`, which must not be in use any more."""
        kept, tensors = ({}, {}) if before is None else (before.weights, before.tensors)
        for name, value in weights.items():
            kept[name] = kept[name].copy_(value) if name in kept else value.clone()
        return cls(version, kept, *pack(state, tensors))

    def state(self) -> Any:
        """Return copies of all state except the weights; learning continues on the copies."""
        return unpack({name: value.clone() for name, value in self.tensors.items()}, self.structure)

    def write(self, path: Path) -> None:
        """Write all state except the weights to disk, as `Contributor.save` does."""
        checkpoint.save_packed(path, self.tensors, self.structure)
