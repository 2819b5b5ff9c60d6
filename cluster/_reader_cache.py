"""The cache of a reader: results that other readers may still request."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from cluster._memory_file import MemoryFile
from incr_core.data.timeline import Item

__all__ = ["ReaderCache"]

ROOM = 1 << 28
"""Bytes that are kept for readers that are behind. The newest result is always kept."""

MOST = 256
"""Results that are kept. Each is an open file."""


@dataclass(slots=True)
class _Thing:
    """A cached result.

    Args:
        file: The file; None if it could not be created or all readers have it.
        wanted: Number of readers that are to receive it.
        takers: Readers that have it.
    """

    file: MemoryFile | None
    wanted: int
    takers: set[int] = field(default_factory=set)


class ReaderCache:
    """Results of a reader, kept until all other readers have them or there is no room.

    Args:
        takers: Number of other readers.
        bounded: Whether there is room for `ROOM` bytes only. Otherwise results are kept until they are cleared.

    Example:
        >>> cache = ReaderCache(takers=1)
        >>> cache.put((0, 0, 0, 0), MemoryFile(-1, 7))
        >>> cache.take((0, 0, 0, 0), 1, patience=0.0).size
        7
        >>> cache.take((0, 0, 0, 0), 1, patience=0.0) is None
        True
    """

    def __init__(self, takers: int = 1, *, bounded: bool = True) -> None:
        self.takers = takers
        self._bounded = bounded
        self._things: OrderedDict[Item, _Thing] = OrderedDict()
        self._reached: Item = (0, 0, 0, 0)
        self._bytes = 0
        self._change = threading.Condition()
        self._closed = False

    def reach(self, item: Item) -> None:
        """Record that the reader has reached an item. Earlier items are no longer waited for."""
        with self._change:
            self._reached = item
            for past in [one for one, thing in self._things.items() if one < item and thing.file is None]:
                del self._things[past]
            self._change.notify_all()

    def put(self, item: Item, file: MemoryFile | None, takers: int | None = None) -> None:
        """Add a result for a number of others (None: all)."""
        with self._change:
            self._let_go(self._things.pop(item, None))
            self._things[item] = _Thing(file, self.takers if takers is None else takers)
            self._bytes += 0 if file is None else file.size
            for old in list(self._things) if self._bounded else ():
                if (self._bytes <= ROOM and len(self._things) <= MOST) or old == item:
                    break
                self._let_go(self._things.pop(old))
            self._change.notify_all()

    def take(self, item: Item, taker: int, patience: float) -> MemoryFile | None:
        """Return a result that is there or arrives within the given seconds; None if it does not."""
        until = time.monotonic() + patience
        with self._change:
            while item not in self._things and item >= self._reached and not self._closed:
                if not self._change.wait(until - time.monotonic()):
                    return None
            thing = self._things.get(item)
            if thing is None or thing.file is None:
                return None
            file = thing.file
            thing.takers.add(taker)
            if len(thing.takers) >= thing.wanted:
                self._let_go(thing)
            return file

    def clear(self) -> None:
        """Release all results."""
        with self._change:
            self._things.clear()
            self._reached, self._bytes = (0, 0, 0, 0), 0

    def close(self) -> None:
        """Release all results and end all waits."""
        self.clear()
        with self._change:
            self._closed = True
            self._change.notify_all()

    def _let_go(self, thing: _Thing | None) -> None:
        if thing is not None and thing.file is not None:
            self._bytes -= thing.file.size
            thing.file = None
