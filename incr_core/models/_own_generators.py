"""Random generators of modules, seeded from the learner's seed and saved with its state."""

from __future__ import annotations

import random
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import nn

from incr_core.errors import ArgumentError, CheckpointError

__all__ = ["OwnGenerators"]

Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random


class OwnGenerators:
    """The generators of torch, numpy and Python that are attributes of modules, by name.

    Each is seeded with a seed derived from `seed` and its name. The same job therefore draws the same numbers, however
    the model was made, and a resumed run continues the sequence.

    Args:
        seed: The learner's seed.
        modules: Modules, by the first part of the names.

    Raises:
        ArgumentError: A generator cannot be seeded.

    Example:
        >>> class Noise(nn.Module):
        ...     def __init__(self):
        ...         super().__init__(); self.chance = np.random.default_rng()
        >>> one, other = Noise(), Noise()
        >>> generators, _ = OwnGenerators(7, model=one), OwnGenerators(7, model=other)
        >>> one.chance.random() == other.chance.random()
        True
        >>> state, drawn = generators.state_dict(), one.chance.random()
        >>> generators.load_state_dict(state)
        >>> one.chance.random() == drawn
        True
    """

    def __init__(self, seed: int, **modules: nn.Module) -> None:
        self._generators: dict[str, Generator] = {}
        for first, module in modules.items():
            for name, part in module.named_modules():
                for attribute, value in vars(part).items():
                    if isinstance(value, Generator) and not any(value is one for one in self._generators.values()):
                        self._generators[f"{first}.{name}.{attribute}" if name else f"{first}.{attribute}"] = value
        for name, generator in self._generators.items():
            if isinstance(generator, random.SystemRandom):
                raise ArgumentError(
                    f"{name}: expected a random generator that can be seeded, so that a run can be repeated and "
                    "resumed, got random.SystemRandom; use random.Random"
                )
            _seed(generator, int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:4]))

    def __bool__(self) -> bool:
        return bool(self._generators)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each generator."""
        return {name: _state(generator) for name, generator in self._generators.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states.

        Raises:
            CheckpointError: A generator has no entry in `state`, or the reverse.
        """
        for name in {**self._generators, **state}:
            if (name in state) != (name in self._generators):
                expected, got = ("one", "none") if name in self._generators else ("none", "one")
                raise CheckpointError(
                    f"{name}: expected {expected} of the random generators that modules keep, got {got}; "
                    "use the same model, or start a new run"
                )
            _restore(self._generators[name], state[name])


def _seed(generator: Generator, seed: int) -> None:
    match generator:
        case torch.Generator():
            generator.manual_seed(seed)
        case np.random.Generator():
            kind: Any = type(generator.bit_generator)
            generator.bit_generator.state = kind(seed).state
        case _:
            generator.seed(seed)


def _state(generator: Generator) -> Any:
    match generator:
        case torch.Generator():
            return generator.get_state()
        case np.random.Generator():
            return generator.bit_generator.state
        case np.random.RandomState():
            return generator.get_state(legacy=False)
        case _:
            return generator.getstate()


def _restore(generator: Generator, state: Any) -> None:
    match generator:
        case torch.Generator():
            generator.set_state(state.cpu())
        case np.random.Generator():
            generator.bit_generator.state = state
        case np.random.RandomState():
            generator.set_state(state)
        case _:
            generator.setstate(state)
