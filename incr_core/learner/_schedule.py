"""A learning rate that changes with the steps, or with the increments; and weights that have one of their own."""

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
"""Those of torch.optim.lr_scheduler that take numbers alone: "step", "exponential", "onecycle", and so on."""

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
    """A learning rate scheduler of torch, stepped by the learner: after every optimiser step, or every increment.

    make: makes the scheduler for an optimiser. each: "step" or "increment".

    >>> import torch
    >>> schedule = Schedule(lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1), each="increment")
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
        """Take charge of an optimiser's learning rates."""
        self.scheduler = self.make(optimizer)
        self._first = copy.deepcopy(self.scheduler.state_dict())
        self._settings = [_settings(group) for group in optimizer.param_groups]

    def after(self, event: str) -> None:
        """A step, or an increment, is done."""
        if event == self.each:
            assert self.scheduler is not None, "start it with an optimiser"
            self.scheduler.step()

    def restart(self) -> None:
        """Begin again, with the rates of the first step; the optimiser keeps its moments.

        Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts".
        """
        assert self.scheduler is not None, "start it with an optimiser"
        self.scheduler.load_state_dict(copy.deepcopy(self._first))
        for group, settings in zip(self.scheduler.optimizer.param_groups, self._settings, strict=True):
            group.update(settings)

    def state_dict(self) -> dict[str, Any]:
        """Its progress; the rates themselves are in the optimiser's state."""
        assert self.scheduler is not None, "start it with an optimiser"
        found: dict[str, Any] = self.scheduler.state_dict()
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        assert self.scheduler is not None, "start it with an optimiser"
        self.scheduler.load_state_dict(state)


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """What schedulers move: rates, and momentum in the cyclic ones."""
    return {name: group[name] for name in ("lr", "momentum", "betas") if name in group}


def grouped(trainable: Mapping[str, Parameter], groups: Groups) -> list[Any]:
    """The parameters as an optimiser takes them: as they are, or in groups, those that match no pattern first.

    A weight belongs to the first pattern that it matches; `*` stands for anything, dots included. ArgumentError where a
    pattern matches nothing that earlier ones have left.

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
