"""Learning-rate schedules by steps or increments, and parameter groups with their own settings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.nn.parameter import Parameter
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from incr_core._util import Catalogue, one_of
from incr_core.errors import ArgumentError
from incr_core.models import matches

__all__ = ["SCHEDULES", "Groups", "Schedule", "grouped"]

_WITHOUT_NUMBERS = ("ReduceLROnPlateau", "SequentialLR", "ChainedScheduler", "LambdaLR", "MultiplicativeLR")

_OF_TORCH: dict[str, Callable[..., LRScheduler]] = {
    name.removesuffix("LR").lower(): kind
    for name, kind in vars(lr_scheduler).items()
    if isinstance(kind, type) and issubclass(kind, LRScheduler) and kind.__module__ == lr_scheduler.__name__
    if kind is not LRScheduler and not name.startswith("_") and name not in _WITHOUT_NUMBERS
}
"""The schedulers of torch.optim.lr_scheduler with numeric arguments only: "step", "exponential", "onecycle", and so on.
"""

SCHEDULES: Catalogue[Callable[..., LRScheduler]] = Catalogue(
    "a schedule",
    {
        **_OF_TORCH,
        "cosine": lr_scheduler.CosineAnnealingLR,
        "warm_restarts": lr_scheduler.CosineAnnealingWarmRestarts,
    },
    "incr.schedules",
)

Groups = Sequence[tuple[str, Mapping[str, Any]]]
"""Name patterns of weights, and the optimiser's arguments for them."""


class Schedule:
    """A torch learning-rate scheduler, stepped by the learner after every optimiser step or every increment.

    Args:
        make: Creates the scheduler for an optimiser.
        each: "step" or "increment".

    Example:
        >>> import torch
        >>> make = lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
        >>> schedule = Schedule(make, each="increment")
        >>> optimizer = torch.optim.SGD([Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule.start(optimizer); optimizer.step(); schedule.after("step"); schedule.after("increment")
        >>> optimizer.param_groups[0]["lr"]
        0.1
    """

    def __init__(self, make: Callable[[Optimizer], LRScheduler], each: str = "step") -> None:
        self.make = make
        self.each = one_of("learner.schedule.each", each, ["increment", "step"])
        self.scheduler: LRScheduler | None = None

    def start(self, optimizer: Optimizer) -> None:
        """Create the scheduler for an optimiser."""
        self.scheduler = self.make(optimizer)
        self._first = copy.deepcopy(self.scheduler.state_dict())
        self._settings = [_settings(group) for group in optimizer.param_groups]

    def after(self, event: str) -> None:
        """Step the scheduler after a "step" or an "increment", if it is configured for that event."""
        if event == self.each:
            assert self.scheduler is not None, "start it with an optimiser"
            self.scheduler.step()

    def restart(self) -> None:
        """Restart with the initial rates; the optimiser keeps its moments.

        Reference:
            Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts".
        """
        assert self.scheduler is not None, "start it with an optimiser"
        self.scheduler.load_state_dict(copy.deepcopy(self._first))
        for group, settings in zip(self.scheduler.optimizer.param_groups, self._settings, strict=True):
            group.update(settings)

    def state_dict(self) -> dict[str, Any]:
        """Return its progress; the rates themselves are part of the optimiser's state."""
        assert self.scheduler is not None, "start it with an optimiser"
        found: dict[str, Any] = self.scheduler.state_dict()
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore its progress."""
        assert self.scheduler is not None, "start it with an optimiser"
        self.scheduler.load_state_dict(state)


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that schedulers change: rates, and momentum in the cyclic ones."""
    return {name: group[name] for name in ("lr", "momentum", "betas") if name in group}


def grouped(trainable: Mapping[str, Parameter], groups: Groups) -> list[Any]:
    """Return the parameters for an optimiser: as they are, or in groups, starting with those that match no pattern.

    A weight belongs to the first pattern that it matches. `*` matches any text, including dots.

    Raises:
        ArgumentError: A pattern matches no remaining weight.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        >>> [len(group["params"]) for group in grouped(dict(model.named_parameters()), [("1.*", {"lr": 0.1})])]
        [2, 2]
    """
    if not groups:
        return list(trainable.values())
    left = dict(trainable)
    found: list[dict[str, Any]] = []
    for pattern, arguments in groups:
        names = [name for name in left if matches(name, pattern)]
        if not names:
            raise ArgumentError(
                f"learner.groups: expected {pattern!r} to match some weight that no group before it takes, "
                f"it matches none of {', '.join(list(left)[:10])}{', ...' * (len(left) > 10)}"
            )
        found.append({"params": [left.pop(name) for name in names], **arguments})
    return [{"params": list(left.values())}, *found] if left else found
