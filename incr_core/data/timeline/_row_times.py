"""The times at which rows arrive and labels become known, and the rows with bad times."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from incr_core.data.sources import EarlierTimes
from incr_core.data.times import NEVER, SECOND, Instants, instants, leaps

__all__ = ["RowTimes", "Wrong"]

Ints = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Wrong:
    """Rows (B,) of a column with unexpected values, and a description of the values."""

    rows: Mask
    column: str
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class RowTimes:
    """The times of rows, and the rows with bad times.

    Attributes:
        arrive: The arrival times (B,), in microseconds.
        known: The label times (B,), in microseconds.
        wrong: The rows with bad times, for each column.
        zoned: For each column, whether its times have a zone (`Instants.zoned`).
    """

    arrive: Ints
    known: Ints
    wrong: list[Wrong]
    zoned: dict[str, bool | None]

    @classmethod
    def of(
        cls,
        table: pa.Table,
        name: str,
        predict_at: str | None,
        label_at: str | None,
        known_at: Iterable[str] = (),
        floor: int = 0,
        leap: int | None = None,
        earlier: EarlierTimes | None = None,
    ) -> RowTimes:
        """Read the times of a table.

        Args:
            table: the rows.
            name: where they are from.
            predict_at: the column of arrival times; without it no row has a time.
            label_at: the column of label times; without it a label is known as its row arrives.
            known_at: more columns of times, which are only checked.
            floor: no row arrives earlier, and one without a time arrives then.
            leap: a time that `leaps` further is bad.
            earlier: the times of the rows before these, where there are any that all readers agree on.

        Example:
            >>> table = pa.table({"at": [5, None, 9], "label_at": [7, 8, 6]})
            >>> times = RowTimes.of(table, "here", "at", "label_at", floor=5_000_000)
            >>> times.arrive.tolist(), times.known.tolist()
            ([5000000, 5000000, 9000000], [7000000, 8000000, 9000000])
            >>> [(wrong.column, wrong.rows.tolist()) for wrong in times.wrong if wrong.rows.any()]
            [('at', [False, True, False]), ('label_at', [False, False, True])]
        """
        wrong: list[Wrong] = []
        zoned: dict[str, bool | None] = {}

        def read(column: str, place: str) -> Instants:
            found = instants(table[column], f"{place}.{column} in {name}")
            wrong.append(Wrong(found.wrong, column, "a time", found.got))
            zoned[column] = found.zoned
            ahead = leaps(found, leap, None if earlier is None else earlier.of(column))
            if ahead.any():
                wrong.append(Wrong(ahead, column, _no_leap(leap), "far ahead of all others"))
                found.known &= ~ahead
            return found

        if predict_at is None:
            nothing = np.zeros(len(table), dtype=np.int64)
            return cls(nothing, nothing, wrong, zoned)
        arrives = read(predict_at, "stream.predict_at")
        seen = np.logical_or.reduce([one.rows for one in wrong])
        wrong.append(Wrong(~arrives.known & ~seen, predict_at, "a time", "null"))
        for column in dict.fromkeys(known_at):
            read(column, "features.rate.known_at")
        times = np.maximum(np.where(arrives.known, arrives.values, floor), floor)
        if label_at is None:
            return cls(times, times.copy(), wrong, zoned)
        labels = read(label_at, "stream.label_at")
        early = labels.known & arrives.known & (labels.values < arrives.values)
        expected = f"a label time not before {predict_at}"
        wrong.append(Wrong(early, label_at, expected, "label times before prediction time"))
        return cls(times, np.where(labels.known, np.maximum(labels.values, times), NEVER), wrong, zoned)

    def slice(self, start: int, stop: int) -> RowTimes:
        """Return the times of consecutive rows.

        Example:
            >>> times = RowTimes.of(pa.table({"at": [5, None, 9]}), "here", "at", None)
            >>> times.slice(1, 3).arrive.tolist(), [wrong.rows.tolist() for wrong in times.slice(1, 3).wrong]
            ([0, 9000000], [[False, False], [True, False]])
        """
        wrong = [replace(one, rows=one.rows[start:stop]) for one in self.wrong]
        return RowTimes(self.arrive[start:stop].copy(), self.known[start:stop].copy(), wrong, self.zoned)


def _no_leap(limit: int | None) -> str:
    return f"times without a leap of more than {(limit or 0) / SECOND / 86400:g} days (stream.max_leap)"
