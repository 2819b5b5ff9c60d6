"""Bounded memories of rows, and the catalogue that finds them by name."""

from __future__ import annotations

import torch

from incr_core._util import Catalogue
from incr_core.errors import ArgumentError
from incr_core.memories._balanced import Balanced
from incr_core.memories._base import Memory
from incr_core.memories._columns import Columns, columns_of, to_batch
from incr_core.memories._herding import Herding
from incr_core.memories._online_herding import OnlineHerding
from incr_core.memories._others import Others
from incr_core.memories._prototypes import Prototypes
from incr_core.memories._recent import RecentRows
from incr_core.memories._reservoir import Reservoir

__all__ = [
    "MEMORIES",
    "Balanced",
    "Columns",
    "Herding",
    "Memory",
    "OnlineHerding",
    "Others",
    "Prototypes",
    "RecentRows",
    "Reservoir",
    "columns_of",
    "draw",
    "draw_held",
    "memory_named",
    "to_batch",
]

MEMORIES: Catalogue[type[Memory]] = Catalogue(
    "a memory",
    {
        "reservoir": Reservoir,
        "balanced": Balanced,
        "window": RecentRows,
        "herding": OnlineHerding,
        "prototypes": Prototypes,
    },
    "incr.memories",
    error=ArgumentError,
)
"""Memories that need only the rows. `Herding` also needs activations, and only iCaRL uses it."""


def memory_named(place: str, name: str, capacity: int | str, ttl: int | None = None) -> Memory:
    """Return an empty memory by its name in the catalogue.

    Args:
        place: Name of the setting, for error messages.
        name: A name in `MEMORIES`.
        capacity: Number of rows, or a size such as "64MB".
        ttl: Rows older than this many insertions are removed. None keeps them.

    Raises:
        ArgumentError: The name is unknown, or the catalogue entry does not make a `Memory`.

    Example:
        >>> memory_named("der.memory", "window", 100)
        RecentRows()
    """
    made = MEMORIES.find(name, place)(capacity, ttl)
    if not isinstance(made, Memory):
        raise ArgumentError(
            f"{place}: expected {name} to make a Memory, got {type(made).__name__}; "
            "name a class that inherits from incr_core.Memory"
        )
    return made


def draw(memory: Memory, count: int, generator: torch.Generator) -> Columns:
    """Draw `count` of the available rows in random order; no row repeats before all rows were drawn once.

    A small memory is therefore replayed evenly. A memory that holds more than 16 * `count` rows is sampled with
    replacement: repeated rows are rare there, and a permutation of all rows would cost more.

    Example:
        >>> memory, generator = Reservoir(4), torch.Generator().manual_seed(0)
        >>> memory.insert({"targets": torch.arange(4)}, generator)
        >>> sorted(draw(memory, 6, generator)["targets"].tolist()[:4])
        [0, 1, 2, 3]
    """
    if memory.others is None:
        return draw_held(memory, count, generator)
    return memory.others.beside(lambda own: draw_held(memory, own, generator), memory.size, count)


def draw_held(memory: Memory, count: int, generator: torch.Generator) -> Columns:
    """Draw as `draw` does, from the rows held here only."""
    if memory.size > 16 * count:
        return memory.sample_held(count, generator)
    device = generator.device
    turns = [torch.randperm(memory.size, generator=generator, device=device) for _ in range(-(-count // memory.size))]
    index = torch.cat(turns)[:count] if len(turns) > 1 else turns[0][:count]
    columns = {name: column.index_select(0, index) for name, column in memory.rows_held().items()}
    return memory.around(columns, generator) if isinstance(memory, Prototypes) else columns
