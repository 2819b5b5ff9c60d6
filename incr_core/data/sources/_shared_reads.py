"""Tables decoded once for all who read the same stream in one process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from threading import RLock
from typing import Any

import pyarrow as pa

__all__ = ["SharedReads"]

ROOM = 1 << 27
"""Bytes that are kept for readers that are behind: chunks of a few files."""


@dataclass(slots=True)
class _Reading:
    """A file that is being read: the tables still to come, None at its end; how many came, and how many are kept."""

    source: Iterator[pa.Table] | None
    place: int = 0
    kept: int = 0


class SharedReads:
    """What several readers of one stream, such as the owners of its parts, need decoded or derived but once.

    Whoever comes first reads, and the others find it here. What they ask for too late, because newer tables have taken
    its room, they read by themselves; so each sees the same tables as without the others, however far apart they are.

    Args:
        room: how many bytes are kept; the newest table always is.

    Attributes:
        bytes: how many are kept now.

    >>> reads, opened = SharedReads(), []
    >>> def read():
    ...     opened.append("a.csv")
    ...     yield pa.table({"x": [1.0]})
    >>> [len(table) for _ in range(3) for table in reads.tables("a.csv", read)], opened
    ([1, 1, 1], ['a.csv'])
    """

    def __init__(self, room: int = ROOM) -> None:
        self._room, self.bytes = room, 0
        self._lock = RLock()
        self._readings: dict[Hashable, _Reading] = {}
        self._kept: OrderedDict[tuple[Hashable, int], tuple[Any, int]] = OrderedDict()

    def tables(self, key: Hashable, read: Callable[[], Iterator[pa.Table]]) -> Iterator[pa.Table]:
        """The tables that `read` gives, which are the same for all who ask by this key."""
        for place in count():
            with self._lock:
                table, ended = self._table(key, place, read)
            if ended:
                return
            if table is None:
                yield from islice(read(), place, None)
                return
            yield table

    def once(self, key: Hashable, make: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """What `make` gives, made once for all who ask by this key as long as there is room; size: its bytes."""
        with self._lock:
            if (found := self._kept.get((key, 0))) is not None:
                return found[0]
            value = make()
            self._keep((key, 0), value, size(value))
            return value

    def _table(self, key: Hashable, place: int, read: Callable[[], Iterator[pa.Table]]) -> tuple[pa.Table | None, bool]:
        """The table at a place, and whether there is none because the file has ended."""
        reading = self._readings.get(key)
        if place == 0 and (reading is None or (reading.place and (key, 0) not in self._kept)):
            reading = self._readings[key] = _Reading(read())
        if reading is None or place > reading.place:
            return None, False
        if place < reading.place:
            return self._kept.get((key, place), (None, 0))[0], False
        try:
            table = None if reading.source is None else next(reading.source, None)
        except BaseException:
            del self._readings[key]  # the others find out by themselves
            raise
        if table is None:
            reading.source = None
            return None, True
        reading.place += 1
        self._keep((key, place), table, int(table.nbytes))
        return table, False

    def _keep(self, key: tuple[Hashable, int], value: Any, size: int) -> None:
        if (before := self._kept.pop(key, None)) is not None:
            self._let_go(key, before[1])
        self._kept[key] = value, size
        self.bytes += size
        if key[0] in self._readings:
            self._readings[key[0]].kept += 1
        while self.bytes > self._room and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            self._let_go(oldest, self._kept.pop(oldest)[1])

    def _let_go(self, key: tuple[Hashable, int], size: int) -> None:
        self.bytes -= size
        reading = self._readings.get(key[0])
        if reading is None:
            return
        reading.kept -= 1
        if reading.kept <= 0 and reading.source is None:
            del self._readings[key[0]]
