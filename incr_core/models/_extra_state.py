"""Non-tensor state of modules, as returned by torch's `get_extra_state`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from incr_core.errors import ArgumentError, CheckpointError
from incr_core.storage.packing import pack

__all__ = ["ExtraState"]


class ExtraState:
    """The extra state of modules, by their names.

    It is not averaged: each learner keeps its own, through rounds and resumes, and a version contains that of the first
    learner.

    Args:
        modules: Modules, by the first part of the names.

    Raises:
        ArgumentError: A module's state cannot be saved without pickle.

    Example:
        >>> class Counter(nn.Module):
        ...     calls = 3
        ...     def get_extra_state(self): return {"calls": self.calls}
        ...     def set_extra_state(self, state): self.calls = state["calls"]
        >>> ExtraState(model=nn.Sequential(nn.ReLU(), Counter())).state_dict()
        {'model.1': {'calls': 3}}
    """

    def __init__(self, **modules: nn.Module) -> None:
        self._modules: dict[str, nn.Module] = {}
        self._numbers = {
            (f"{first}.{name}" if name else first, part): _numbers(part)
            for first, module in modules.items()
            for name, part in module.named_modules()
        }
        for first, module in modules.items():
            for name, part in module.named_modules():
                if type(part).get_extra_state is not nn.Module.get_extra_state:
                    self._modules[f"{first}.{name}" if name else first] = part
        for name, part in self._modules.items():
            try:
                pack(part.get_extra_state())
            except CheckpointError as error:
                raise ArgumentError(
                    f"{name}: expected an extra state of tensors, numbers, texts, lists and dicts, since nothing is "
                    f"unpickled, and {type(part).__name__}.get_extra_state gives another: {error}; give these, or keep "
                    "it in buffers"
                ) from error

    def __bool__(self) -> bool:
        return bool(self._modules)

    @property
    def names(self) -> list[str]:
        """Names of the modules with extra state."""
        return list(self._modules)

    def check_numbers(self) -> None:
        """Raise an ArgumentError if learning has changed a plain number attribute, which is not saved."""
        for (name, part), before in self._numbers.items():
            if name in self._modules:
                continue
            now = _numbers(part)
            for attribute, value in before.items():
                if attribute in now and now[attribute] != value and value == value:  # NaN equals nothing
                    raise ArgumentError(
                        f"{name}.{attribute}: expected a number that learning does not change, and a forward changed "
                        f"it from {value} to {now[attribute]}: it is neither saved nor merged, so a resumed run would "
                        "differ; keep it in a buffer, or return it in get_extra_state; or, if no later forward "
                        f"depends on it, name it in the class: transient = ({attribute!r},)"
                    )

    def state_dict(self) -> dict[str, Any]:
        """Return the current state of each module."""
        return {name: part.get_extra_state() for name, part in self._modules.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states.

        Raises:
            CheckpointError: A module with extra state has none in `state`, or the reverse.
        """
        for name in {**self._modules, **state}:
            if (name in state) != (name in self._modules):
                expected, got = ("one", "none") if name in self._modules else ("none", "one")
                raise CheckpointError(
                    f"{name}: expected {expected} of the extra states that modules keep, got {got}; "
                    "use the same model, or start a new run"
                )
            self._modules[name].set_extra_state(state[name])


def _numbers(part: nn.Module) -> dict[str, int | float]:
    """Return a module's plain number attributes, except those declared transient."""
    transient = getattr(type(part), "transient", ())
    return {name: value for name, value in vars(part).items() if type(value) in (int, float) and name not in transient}
