"""Shared memory of the workers of a server: requests under way, the rate, and the counts of each worker.

The parent creates it before it forks. Each place is written by one worker, except for the rate, which has a lock that
the kernel releases when its holder is killed.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
import tempfile
import threading
import weakref
import zlib
from typing import Any

__all__ = ["Board"]

ROOM = 1 << 18
"""Bytes for what one worker publishes."""

HEAD = struct.Struct("=QII")
"""Number, length and checksum of the content that follows."""

RATE = 2
"""Words of the rate: requests not yet paid off by time, and when that was computed."""


class Board:
    """Shared memory for a fixed number of workers.

    Args:
        workers: Number of workers.

    Attributes:
        replaced: Number of workers that ended and were replaced.

    Example:
        >>> board = Board(2)
        >>> board.enter(0), board.enter(1), board.inside
        (None, None, 2)
        >>> board.publish(0, {"rows": 7}), board.published(0), board.published(1)
        (None, {'rows': 7}, None)
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        words = workers + 1
        self._start = 8 * (words + RATE)
        self._memory = mmap.mmap(-1, self._start + workers * 2 * ROOM)
        whole = memoryview(self._memory)
        self._counts = whole[: 8 * words].cast("q")
        self._rate = whole[8 * words : self._start].cast("d")
        self._lock, name = tempfile.mkstemp()
        os.unlink(name)
        weakref.finalize(self, os.close, self._lock)
        self._publishing = threading.Lock()  # between the threads of a worker

    @property
    def inside(self) -> int:
        """Number of requests under way, over all workers."""
        return sum(self._counts[: self.workers])

    def enter(self, worker: int) -> None:
        """Count a request that a worker begins to answer."""
        self._counts[worker] += 1

    def leave(self, worker: int) -> None:
        """Count a request as answered."""
        self._counts[worker] -= 1

    def spend(self, rate: float, now: float) -> bool:
        """Return whether a request is within the rate, and count it if it is.

        At most a second's worth is granted at once.
        """
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            used = max(self._rate[0] - (now - self._rate[1]) * rate, 0.0)
            granted = used + 1.0 <= max(rate, 1.0)
            self._rate[0], self._rate[1] = used + granted, now
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)
        return granted

    @property
    def replaced(self) -> int:
        """Number of workers that were replaced."""
        return self._counts[self.workers]

    def replace(self, worker: int) -> None:
        """Record that a worker has ended: its requests are no longer under way. Its counts stay."""
        self._counts[worker] = 0
        self._counts[self.workers] += 1

    def publish(self, worker: int, document: dict[str, Any]) -> None:
        """Replace the counts of a worker. If the worker is killed in between, its earlier counts stay."""
        content = json.dumps(document).encode()
        if len(content) > ROOM - HEAD.size:
            return
        with self._publishing:
            newest, _ = self._newest(worker)
            at = self._at(worker, newest + 1)
            self._memory[at + HEAD.size : at + HEAD.size + len(content)] = content
            self._memory[at : at + HEAD.size] = HEAD.pack(newest + 1, len(content), zlib.crc32(content))

    def published(self, worker: int) -> dict[str, Any] | None:
        """Return the last counts of a worker or of the one that it replaced; None before the first."""
        _, content = self._newest(worker)
        return None if content is None else dict(json.loads(content))

    def _at(self, worker: int, number: int) -> int:
        return self._start + (2 * worker + number % 2) * ROOM

    def _newest(self, worker: int) -> tuple[int, bytes | None]:
        found: tuple[int, bytes | None] = (0, None)
        for half in (0, 1):
            at = self._at(worker, half)
            number, length, checksum = HEAD.unpack_from(self._memory, at)
            content = self._memory[at + HEAD.size : at + HEAD.size + min(length, ROOM)]
            if number > found[0] and zlib.crc32(content) == checksum:
                found = number, content
        return found
