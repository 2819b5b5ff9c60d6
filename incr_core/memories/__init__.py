"""Every memory by its name; `reservoir` and `balanced` live in `memory.py`, the others here, one a file."""

from __future__ import annotations

from incr_core.arguments import one_of
from incr_core.memories.herding import Herding
from incr_core.memories.prototypes import Prototypes
from incr_core.memories.window import Window
from incr_core.memory import Balanced, Memory, Reservoir

__all__ = ["MEMORIES", "Herding", "Prototypes", "Window", "memory_named"]

MEMORIES: dict[str, type[Memory]] = {
    "reservoir": Reservoir,
    "balanced": Balanced,
    "window": Window,
    "prototypes": Prototypes,
}
"""Memories that take rows as they come; `Herding` needs their features too, and is iCaRL's own."""


def memory_named(place: str, name: str, capacity: int) -> Memory:
    """An empty memory; `place` is the argument to name in errors.

    >>> memory_named("der.memory", "window", 100)
    Window()
    """
    return MEMORIES[one_of(place, name, list(MEMORIES))](capacity)
