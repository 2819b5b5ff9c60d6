"""Test bench for strategies: a small model, rows of three classes, and learners with equal seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.objectives import Objective
from incr_core.storage.packing import pack
from incr_core.strategies import Strategy

__all__ = ["Small", "Trial", "compare", "everything", "three_classes"]

BATCH_SIZE, ACCUMULATE = 4, 2


class Small(nn.Module):
    """A model with 4 inputs and 3 classes. Its layers have dotted names, which buffers must not have."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, (B, 3)."""
        output: Tensor = self.layers(inputs)
        return output


def three_classes(increments: int = 3, rows: int = 38) -> Iterator[Batch]:
    """Yield increments of rows around three points in four dimensions; class 0 becomes rarer over time.

    Example:
        >>> [len(labelled) for labelled in three_classes(increments=2, rows=5)]
        [5, 5]
    """
    generator = torch.Generator().manual_seed(11)
    centres = torch.randn(3, 4, generator=generator)
    for day in range(increments):
        chances = torch.tensor([1.0 / (1 + day), 1.0, 0.5 + day])
        targets = torch.multinomial(chances, rows, replacement=True, generator=generator)
        inputs = centres[targets] + 0.5 * torch.randn(rows, 4, generator=generator)
        yield Batch(inputs, targets, row_ids=torch.arange(rows) + day * rows)


class Trial:
    """A strategy under test, with the model, objective and increments of the test."""

    def __init__(
        self,
        make: Callable[[], Strategy],
        model: Callable[[], nn.Module],
        objective: Callable[[], Objective],
        increments: list[Batch],
        device: str = "cpu",
    ) -> None:
        self.make = make
        self.model = model
        self.objective = objective
        self.increments = increments
        self.device = device
        self.name = type(make()).__name__

    def require(self, holds: bool, law: str, text: str) -> None:
        """Raise an AssertionError unless `holds`."""
        if not holds:
            raise AssertionError(f"{self.name} breaks the law of {law}: {text}")

    def learner(
        self,
        *strategies: Strategy,
        seed: int = 3,
        dtype: torch.dtype = torch.float32,
        device: str | None = None,
        shuffle: bool = True,
    ) -> Learner:
        """Return a learner whose model is initialised with `seed`."""
        before = torch.get_rng_state()
        torch.manual_seed(seed)
        model = self.model().to(device or self.device, dtype)
        torch.set_rng_state(before)
        return Learner(
            model,
            self.objective(),
            partial(torch.optim.SGD, lr=0.05, momentum=0.9),
            strategies,
            batch_size=BATCH_SIZE,
            accumulate=ACCUMULATE,
            epochs=2,
            shuffle=shuffle,
            seed=5,
        )

    def learned(self, *strategies: Strategy, shuffle: bool = True) -> Learner:
        """Return a learner that has learned all increments."""
        learner = self.learner(*strategies, shuffle=shuffle)
        for labelled in self.increments:
            learner.learn(labelled)
        return learner


def everything(learner: Learner) -> dict[str, Any]:
    """Return the weights and every leaf of the learner's state, by name."""
    tensors, rest = pack({"state": learner.state_dict()})
    return {**learner.weights(), **tensors, "the state's other values": rest}


def compare(found: Any, expected: Any) -> tuple[bool, str]:
    """Return whether two values are bit-identical, and a description of the difference."""
    if not isinstance(found, Tensor) or not isinstance(expected, Tensor):
        return bool(found == expected), f"{found} instead of {expected}"
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False, f"{found.dtype} {tuple(found.shape)} instead of {expected.dtype} {tuple(expected.shape)}"
    if torch.equal(found, expected):
        return True, ""
    return False, f"up to {float((found.double() - expected.double()).abs().max()):.2g} away"
