"""Global random states of torch, Python and numpy, swapped in while a learner works.

Dropout draws from torch's global generator and accepts no other; a user's model may draw from Python's `random` or from
numpy. If a learner shared these generators with other code in the process, resuming would not be exact. Each learner
therefore swaps its own states in while it works.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["GlobalRandomState", "OwnChance", "global_random_state", "seeded"]


class GlobalRandomState:
    """Context manager in which the global generators continue from this object's state.

    Torch's generators of the CPU and, if `device` is a GPU, of that GPU are swapped. Python's and numpy's are swapped
    if `others` is true, because copying Python's state takes as long as the forward of a small layer.

    Example:
        >>> state = global_random_state(7)
        >>> with state:
        ...     first = torch.rand(1)
        >>> other = torch.rand(1)
        >>> with state:
        ...     second = torch.rand(1)
        >>> _ = torch.manual_seed(7); bool((torch.rand(2) == torch.cat([first, second])).all())
        True
    """

    def __init__(self, seed: int, device: torch.device, others: bool) -> None:
        self._device = device
        gpu = torch.Generator(device).manual_seed(seed).get_state() if device.type == "cuda" else None
        self._mine = self._theirs = (torch.Generator().manual_seed(seed).get_state(), gpu)
        self._others = _Others(seed) if others else None

    def __enter__(self) -> None:
        self._theirs = self._current()
        self._set(*self._mine)
        if self._others is not None:
            self._others.swap()

    def __exit__(self, *_: object) -> None:
        self._mine = self._current()
        self._set(*self._theirs)
        if self._others is not None:
            self._others.swap()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the generators."""
        cpu, gpu = self._mine
        return {"cpu": cpu, "gpu": gpu, "others": None if self._others is None else self._others.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states. A state saved without a GPU, or without the others, leaves those unchanged."""
        gpu = self._mine[1] if state["gpu"] is None else state["gpu"].cpu()
        self._mine = (state["cpu"].cpu(), gpu)
        if self._others is not None and state.get("others") is not None:
            self._others.load_state_dict(state["others"])

    def _current(self) -> tuple[Tensor, Tensor | None]:
        gpu = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return torch.get_rng_state(), gpu

    def _set(self, cpu: Tensor, gpu: Tensor | None) -> None:
        torch.set_rng_state(cpu)
        if gpu is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(gpu, self._device)


class _Others:
    """States of Python's and numpy's global generators, exchanged with the active ones."""

    def __init__(self, seed: int) -> None:
        self._python = random.Random(seed).getstate()
        self._numpy: tuple[Any, float | None] = (np.random.MT19937(np.random.SeedSequence(seed % 2**64)), None)

    def swap(self) -> None:
        """Activate the stored states, and store the previously active ones."""
        python, numpy = random.getstate(), (np.random.mtrand.get_bit_generator(), _waiting_normal())
        random.setstate(self._python)
        self._force(*self._numpy)
        self._python, self._numpy = python, numpy

    def _force(self, generator: Any, waiting: float | None) -> None:
        np.random.mtrand.set_bit_generator(generator)  # by reference: the state of 2.5 kB is not copied
        if waiting is not None:
            np.random.set_state({**np.random.get_state(legacy=False), "has_gauss": 1, "gauss": waiting})

    def state_dict(self) -> dict[str, Any]:
        """Return the stored states."""
        version, words, python_waiting = self._python
        generator, waiting = self._numpy
        state = generator.state["state"]
        return {
            "python": [version, torch.tensor(words, dtype=torch.int64), python_waiting],
            "numpy": [torch.from_numpy(state["key"].astype(np.int64)), int(state["pos"]), waiting],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the stored states."""
        version, words, python_waiting = state["python"]
        self._python = (version, tuple(words.tolist()), python_waiting)
        key, position, waiting = state["numpy"]
        generator = np.random.MT19937()
        found: Any = {"key": key.cpu().numpy().astype(np.uint32), "pos": position}
        generator.state = {"bit_generator": "MT19937", "state": found}
        self._numpy = (generator, waiting)


def _waiting_normal() -> float | None:
    """Return numpy's cached second normal number, if any: it draws them in pairs, and the generator's state excludes
    it.
    """
    state: Any = np.random.get_state(legacy=False)
    return float(state["gauss"]) if state["has_gauss"] else None


def global_random_state(seed: int, device: torch.device | str = "cpu", *, others: bool = False) -> GlobalRandomState:
    """Return the states that seeding every generator with `seed` would give, without changing the global ones.

    Example:
        >>> before = torch.get_rng_state()
        >>> _ = global_random_state(7)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    return GlobalRandomState(seed, torch.device(device), others)


class OwnChance:
    """Random numbers specific to a shard between `begin` and `end`, from a common seed.

    Two shards that process different rows of a batch would otherwise drop the same units. Afterwards the generators of
    all shards have the same state, just after the draw of the seed, regardless of the draws in between.

    Example:
        >>> first, second = OwnChance(torch.device("cpu"), rank=0), OwnChance(torch.device("cpu"), rank=1)
        >>> drawn = []
        >>> for own in (first, second):
        ...     _ = torch.manual_seed(7)
        ...     own.begin(); drawn.append(torch.rand(1)); own.end()
        ...     drawn.append(torch.rand(1))
        >>> bool(drawn[0] == drawn[2]), bool(drawn[1] == drawn[3])
        (False, True)
    """

    def __init__(self, device: torch.device, rank: int) -> None:
        self._device = device
        self._rank = rank
        self._shared: GlobalRandomState | None = None

    def begin(self) -> None:
        """Switch to this shard's generator."""
        seed = int(torch.randint(2**62, (1,)))
        # A neighbouring seed gives an independent stream, because the generators mix all bits of the seed.
        self._shared = global_random_state(seed + self._rank, self._device)
        self._shared.__enter__()

    def end(self) -> None:
        """Switch back to the common generator, if `begin` was called."""
        if self._shared is not None:
            self._shared.__exit__()
            self._shared = None


@contextmanager
def rewound(device: torch.device) -> Iterator[None]:
    """Restore the global generators of torch (CPU and `device`), Python and numpy at exit.

    Example:
        >>> with rewound(torch.device("cpu")):
        ...     first = torch.rand(1), random.random(), np.random.rand()
        >>> first == (torch.rand(1), random.random(), np.random.rand())
        True
    """
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all global generators, and restore them at exit.

    Example:
        >>> with seeded(7):
        ...     first = torch.rand(1), random.random(), np.random.rand()
        >>> with seeded(7):
        ...     again = torch.rand(1), random.random(), np.random.rand()
        >>> first == again
        True
    """
    # A GPU that is not initialised yet is seeded at its initialisation.
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    others = _Others(seed)
    with torch.random.fork_rng(gpus):
        if torch.accelerator.is_available():
            torch.manual_seed(seed)
        else:  # manual_seed records a stack trace for each missing kind of device: 3 ms
            torch.default_generator.manual_seed(seed)
        others.swap()
        try:
            yield
        finally:
            others.swap()
