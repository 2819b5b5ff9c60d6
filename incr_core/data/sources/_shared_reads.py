"""Tables decoded once for all readers of the same stream in one process."""

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
"""Bytes kept for readers that lag: chunks of a few files."""


@dataclass(slots=True)
class _Reading:
    """A file being read.

    Attributes:
        source: The remaining tables; None at the end.
        place: Number of tables read.
        kept: Number of tables kept.
    """

    source: Iterator[pa.Table] | None
    place: int = 0
    kept: int = 0


class SharedReads:
    """Shared results of decoding for several readers of one stream, such as the owners of its partitions.

    The first reader reads, and the others find the result here. A table that was already evicted in favour of newer
    ones is read again by its reader, so every reader sees the same tables as it would alone.

    Args:
        room: Number of bytes kept; the newest table is always kept.

    Attributes:
        bytes: Number of bytes kept now.

    Example:
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
        """Yield the tables of `read`, which are the same for all readers with this key."""
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
        """Return the result of `make`, computed once for all readers with this key while there is room; `size` is its
        bytes.
        """
        with self._lock:
            if (found := self._kept.get((key, 0))) is not None:
                return found[0]
            value = make()
            self._keep((key, 0), value, size(value))
            return value

    def _table(self, key: Hashable, place: int, read: Callable[[], Iterator[pa.Table]]) -> tuple[pa.Table | None, bool]:
        """Return the table at a place, and whether there is none because the file has ended."""
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
            del self._readings[key]  # other readers will meet the same error
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
