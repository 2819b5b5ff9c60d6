"""The global random states of torch, Python and numpy, owned by a learner while it works.

Dropout draws from torch's global generator and takes no other; a model of somebody's own may draw from Python's
`random` or numpy's. A learner must not share them with whoever else runs in the process, or resuming would not be
exact: so they are swapped in while the learner works, and out again.
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
    """A context manager inside which the global generators continue from this object's own state.

    Of torch's, those that `device` draws from are swapped: the CPU's, and the GPU's where the device is one. Python's
    and numpy's are swapped where `others` says so: to copy Python's state takes as long as a small layer's forward.

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
        """The states of the generators."""
        cpu, gpu = self._mine
        return {"cpu": cpu, "gpu": gpu, "others": None if self._others is None else self._others.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from there; a state saved without a GPU, or without the others, leaves theirs as they are."""
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
    """States of Python's and numpy's global generators, which change places with those in force."""

    def __init__(self, seed: int) -> None:
        self._python = random.Random(seed).getstate()
        self._numpy: tuple[Any, float | None] = (np.random.MT19937(np.random.SeedSequence(seed % 2**64)), None)

    def swap(self) -> None:
        """Put the states held here in force, and hold those that were."""
        python, numpy = random.getstate(), (np.random.mtrand.get_bit_generator(), _waiting_normal())
        random.setstate(self._python)
        self._force(*self._numpy)
        self._python, self._numpy = python, numpy

    def _force(self, generator: Any, waiting: float | None) -> None:
        np.random.mtrand.set_bit_generator(generator)  # by reference: its state, of 2.5 kB, is not copied
        if waiting is not None:
            np.random.set_state({**np.random.get_state(legacy=False), "has_gauss": 1, "gauss": waiting})

    def state_dict(self) -> dict[str, Any]:
        """The states that are held."""
        version, words, python_waiting = self._python
        generator, waiting = self._numpy
        state = generator.state["state"]
        return {
            "python": [version, torch.tensor(words, dtype=torch.int64), python_waiting],
            "numpy": [torch.from_numpy(state["key"].astype(np.int64)), int(state["pos"]), waiting],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold these instead."""
        version, words, python_waiting = state["python"]
        self._python = (version, tuple(words.tolist()), python_waiting)
        key, position, waiting = state["numpy"]
        generator = np.random.MT19937()
        found: Any = {"key": key.cpu().numpy().astype(np.uint32), "pos": position}
        generator.state = {"bit_generator": "MT19937", "state": found}
        self._numpy = (generator, waiting)


def _waiting_normal() -> float | None:
    """numpy draws normal numbers in pairs: the second, if it waits. It is no part of the generator's own state."""
    state: Any = np.random.get_state(legacy=False)
    return float(state["gauss"]) if state["has_gauss"] else None


def global_random_state(seed: int, device: torch.device | str = "cpu", *, others: bool = False) -> GlobalRandomState:
    """The states that seeding every generator with `seed` would leave, without touching the global ones.

    >>> before = torch.get_rng_state()
    >>> _ = global_random_state(7)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    return GlobalRandomState(seed, torch.device(device), others)


class OwnChance:
    """Between `begin` and `end`, torch's global generators draw what is this shard's own, from a seed they all share.

    Two shards that each take some of a batch's rows would otherwise silence the same units in them. Afterwards the
    generators of all shards stand where one number, the seed, was drawn, whatever each drew within.

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
        """Draw what is this shard's own from here on."""
        seed = int(torch.randint(2**62, (1,)))
        # A neighbouring seed is another stream: the generators mix all of its bits.
        self._shared = global_random_state(seed + self._rank, self._device)
        self._shared.__enter__()

    def end(self) -> None:
        """Draw what all share from here on, if it was begun."""
        if self._shared is not None:
            self._shared.__exit__()
            self._shared = None


@contextmanager
def rewound(device: torch.device) -> Iterator[None]:
    """Afterwards the global generators, of torch on the CPU and on a device, of Python and of numpy, are as before.

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
    """Inside, all global generators begin at `seed`; afterwards they are as they were before.

    >>> with seeded(7):
    ...     first = torch.rand(1), random.random(), np.random.rand()
    >>> with seeded(7):
    ...     again = torch.rand(1), random.random(), np.random.rand()
    >>> first == again
    True
    """
    # A GPU that nobody has asked for yet is seeded when somebody does.
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    others = _Others(seed)
    with torch.random.fork_rng(gpus):
        if torch.accelerator.is_available():
            torch.manual_seed(seed)
        else:  # manual_seed notes a stack trace for each kind of device that is not there: 3 ms
            torch.default_generator.manual_seed(seed)
        others.swap()
        try:
            yield
        finally:
            others.swap()
