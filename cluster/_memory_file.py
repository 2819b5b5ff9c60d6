"""Data that a reader passes to others in a memory file, which is written once and mapped by all on the host."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from typing import Any

import numpy as np

from incr_core.data.timeline import Transfer
from incr_core.numerics import FlatLayout, FlatTensors

__all__ = ["MemoryFile", "read_transfer", "write_transfer"]

LENGTH = 8
"""Bytes of the length of the JSON."""

ALIGNED = 64
"""The tensors begin at a multiple of this number of bytes."""


class MemoryFile:
    """An open file in memory, without a name. It ends with its last descriptor or mapping."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor, self.size = descriptor, size

    def send(self, peer: socket.socket) -> None:
        """Send the content."""
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


def write_transfer(made: Transfer) -> MemoryFile:
    """Write tensors and JSON to a file: the length of the JSON, the JSON, and the tensors as `FlatLayout` orders them.

    Example:
        >>> import torch
        >>> file = write_transfer(Transfer({"x": torch.arange(3.0)}, {"rows": 3}))
        >>> found = read_transfer(os.pread(file.descriptor, file.size, 0))
        >>> found.tensors, found.told
        ({'x': tensor([0., 1., 2.])}, {'rows': 3})
    """
    layout = FlatLayout.of(made.tensors)
    head = json.dumps({"layout": layout.document(), "told": made.told}).encode()
    head += b" " * (-(LENGTH + len(head)) % ALIGNED)
    descriptor = _memory()
    with open(descriptor, "wb", closefd=False) as file:
        file.write(len(head).to_bytes(LENGTH, "little"))
        file.write(head)
        file.writelines(layout.content(made.tensors))
    return MemoryFile(descriptor, LENGTH + len(head) + layout.nbytes)


def read_transfer(content: Any) -> Transfer:
    """Return the content that `write_transfer` wrote, as views of its bytes."""
    view = memoryview(content)
    begin = LENGTH + int.from_bytes(view[:LENGTH], "little")
    head = json.loads(bytes(view[LENGTH:begin]))
    flat = FlatTensors(FlatLayout.from_document(head["layout"]), np.frombuffer(view, np.uint8, offset=begin))
    return Transfer(flat.tensors(copy=False), head["told"])


def _memory() -> int:
    """Return the descriptor of a new file in memory, or on disk if the system has none (macOS)."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("incr rows")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
