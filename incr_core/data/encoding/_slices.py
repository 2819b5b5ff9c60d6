"""Slices: named parts of a stream, by the values of columns. The metrics of each are reported separately."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from incr_core.data.encoding._hashing import indexed, text

__all__ = ["MOST_FOUND", "Slices", "frequent_values"]

MOST_FOUND = 20
"""Values of a column that become slices where the job does not name them."""


class Slices:
    """Assign each row one slice per column: its value's, that of null, or that of all other values.

    Args:
        values: Column -> its values. They are compared as text, so 1, 1.0 and "1" are the same value.

    Attributes:
        names: Of all slices: "COLUMN=VALUE" for each value, then "COLUMN: others" and "COLUMN: null".

    Example:
        >>> slices = Slices({"origin": ["JFK", "EWR"]})
        >>> slices.names
        ['origin=JFK', 'origin=EWR', 'origin: others', 'origin: null']
        >>> slices.of(pa.table({"origin": ["EWR", "LGA", None]})).flatten().tolist()
        [1, 2, 3]
    """

    def __init__(self, values: Mapping[str, Sequence[Any]]) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, dict[str | None, int]] = {}
        for column, named in values.items():
            first = len(self.names)
            known = list(dict.fromkeys(text(value) for value in named))
            self._numbers[column] = {value: first + place for place, value in enumerate(known)}
            self._numbers[column][None] = first + len(known) + 1
            self.names += [f"{column}={value}" for value in known] + [f"{column}: others", f"{column}: null"]

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return list(self._numbers)

    def others(self, name: str) -> str:
        """The slice of the same column's other values.

        Example:
            >>> slices = Slices({"origin": ["JFK"], "carrier": ["AA"]})
            >>> slices.others("origin=JFK"), slices.others("carrier: null")
            ('origin: others', 'carrier: others')
        """
        place = self.names.index(name)
        column = next(column for column, numbers in self._numbers.items() if place <= numbers[None])
        return self.names[self._numbers[column][None] - 1]

    def of(self, table: pa.Table, place: str = "stream") -> Tensor:
        """The slices of a table's rows, as numbers of `names`.

        Args:
            table: Has all columns.
            place: Names the table's file in errors.

        Returns:
            Slice numbers (B, columns) int64.

        Raises:
            StreamError: Where a column holds lists, whose values have no text.
        """
        found = np.zeros((len(table), len(self._numbers)), dtype=np.int64)
        for index, (column, numbers) in enumerate(self._numbers.items()):
            values, codes = indexed(table[column], f"features.slices {column} in {place}")
            others = numbers[None] - 1
            of_values = np.array([numbers.get(text(value), others) for value in values], dtype=np.int64)
            if len(table):
                found[:, index] = of_values[codes]
        return torch.from_numpy(found)


def frequent_values(tables: Iterable[pa.Table], column: str, most: int = MOST_FOUND) -> list[str]:
    """The most frequent values of a column as text, in the order of their frequency, equal ones by their text.

    Example:
        >>> frequent_values([pa.table({"origin": ["b", "a", "c", "c", None]})], "origin", most=2)
        ['c', 'a']
    """
    counts = Counter[str]()
    for table in tables:
        if column in table.column_names:
            values, codes = indexed(table[column], f"features.slices {column}")
            for value, count in zip(values, np.bincount(codes, minlength=len(values)).tolist(), strict=True):
                if count and (found := text(value)) is not None:
                    counts[found] += count
    return sorted(counts, key=lambda value: (-counts[value], value))[:most]
