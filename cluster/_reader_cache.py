"""The cache of a reader: what it has made, for as long as others may ask for it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from cluster._memory_file import MemoryFile
from incr_core.data.timeline import Item

__all__ = ["ReaderCache"]

ROOM = 1 << 28
"""Bytes that are kept for readers that are behind; the newest thing always is."""

MOST = 256
"""Things that are kept, each an open file."""


@dataclass(slots=True)
class _Thing:
    """file: None where it could not be made, or all have taken it. wanted: how many are to take it. takers: who has."""

    file: MemoryFile | None
    wanted: int
    takers: set[int] = field(default_factory=set)


class ReaderCache:
    """What a reader has made, until all have taken it, or there is no room for it.

    takers: how many others there are. bounded: whether there is room for `ROOM` only; else what is not taken lies there
    until it is cleared.

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
        """The reader has come to an item: nobody need wait for those before it."""
        with self._change:
            self._reached = item
            for past in [one for one, thing in self._things.items() if one < item and thing.file is None]:
                del self._things[past]
            self._change.notify_all()

    def put(self, item: Item, file: MemoryFile | None, takers: int | None = None) -> None:
        """Lay something there, for so many others (None: all)."""
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
        """What lies there, or will within so many seconds; None where it does not."""
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
        """Let go of everything."""
        with self._change:
            self._things.clear()
            self._reached, self._bytes = (0, 0, 0, 0), 0

    def close(self) -> None:
        """Let go of everything, and let nobody wait any more."""
        self.clear()
        with self._change:
            self._closed = True
            self._change.notify_all()

    def _let_go(self, thing: _Thing | None) -> None:
        if thing is not None and thing.file is not None:
            self._bytes -= thing.file.size
            thing.file = None
