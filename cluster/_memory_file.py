"""What a reader hands to others, in a file that is memory: written once, and mapped by all on this host."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from typing import Any

import numpy as np

from incr_core.data.timeline import Handed

__all__ = ["MemoryFile", "read_handed", "write_handed"]

ALIGNED = 64
"""Arrays begin at multiples of it."""


class MemoryFile:
    """An open file in memory, without a name, that ends with its last descriptor or mapping."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor, self.size = descriptor, size

    def send(self, peer: socket.socket) -> None:
        """Send its content."""
        place = 0
        while place < self.size:
            place += os.sendfile(peer.fileno(), self.descriptor, place, self.size - place)

    def __enter__(self) -> MemoryFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close this descriptor."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        self.close()


def write_handed(made: Handed) -> MemoryFile:
    """Arrays and JSON as a file: the length of the JSON, the JSON, and the arrays.

    >>> file = write_handed(Handed({"x": np.arange(3.0)}, {"rows": 3}))
    >>> read_handed(os.pread(file.descriptor, file.size, 0))
    Handed(arrays={'x': array([0., 1., 2.])}, told={'rows': 3})
    """
    arrays = {name: np.ascontiguousarray(value) for name, value in made.arrays.items()}
    laid, place = [], 0
    for name, value in arrays.items():
        laid.append([name, value.dtype.str, list(value.shape), place])
        place += _padded(value.nbytes)
    head = json.dumps({"arrays": laid, "told": made.told}).encode()
    head += b" " * (_padded(len(head) + 8) - len(head) - 8)
    descriptor = _memory()
    with open(descriptor, "wb", closefd=False) as file:
        file.write(len(head).to_bytes(8, "little"))
        file.write(head)
        for value in arrays.values():
            file.write(value.data.cast("B") if value.size else b"")
            file.write(bytes(_padded(value.nbytes) - value.nbytes))
    return MemoryFile(descriptor, 8 + len(head) + place)


def read_handed(content: Any) -> Handed:
    """What `write_handed` wrote, as views of its bytes."""
    view = memoryview(content)
    begin = 8 + int.from_bytes(view[:8], "little")
    head = json.loads(bytes(view[8:begin]))
    arrays = {}
    for name, dtype, shape, place in head["arrays"]:
        count = int(np.prod(shape))
        found = np.frombuffer(view, dtype, count, begin + place) if count else np.empty(0, dtype)
        arrays[name] = found.reshape(shape)
    return Handed(arrays, head["told"])


def _memory() -> int:
    """The descriptor of a new file in memory; on disk, where there is none (on macOS)."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("incr rows")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _padded(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
