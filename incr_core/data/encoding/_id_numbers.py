"""Id columns: numbers that a model uses for lookups, so that other numbers are invalid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from incr_core.data.encoding._columns import Fault

__all__ = ["no_ids"]


def no_ids(
    matrix: np.ndarray[Any, np.dtype[np.float32]], places: Mapping[str, range], ids: Mapping[str, range]
) -> list[Fault]:
    """Return the rows of a matrix (B, N) with a value that is not a valid id; NaN is missing.

    Args:
        matrix: The numbers.
        places: Places of each column among the N numbers.
        ids: Valid ids, by column.

    Example:
        >>> matrix = np.array([[1, 2], [9, 1.5], [3, np.nan]], dtype=np.float32)
        >>> places = {"kind": range(1), "word": range(1, 2)}
        >>> [fault.index.tolist() for fault in no_ids(matrix, places, {"word": range(3)})]
        [[1]]
    """
    faults = []
    for name, allowed in ids.items():
        values = matrix[:, places[name].start : places[name].stop]
        wrong = (values < allowed.start) | (values >= allowed.stop) | (values != np.rint(values)) & ~np.isnan(values)
        index = np.flatnonzero(wrong.any(axis=1))
        if len(index):
            expected = f"whole numbers from {allowed.start} to {allowed.stop - 1}"
            faults.append(Fault(index, name, expected, "other numbers"))
    return faults
