"""Row ids: every row of a stream has one permanent address.

    id = fragment number << 40 | offset of the row within its fragment

A fragment is one file (or one table of a Python source). Row groups need no bits, because the offset and the file's
footer determine them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OFFSET_BITS", "fragment_of", "offset_of", "ranges", "row_ids"]

OFFSET_BITS = 40
"""Number of low bits for the offset: 2**40 rows per fragment, 2**23 fragments per stream."""

_MASK = (1 << OFFSET_BITS) - 1


def row_ids(fragment: int, start: int, stop: int) -> Tensor:
    """Return the ids of rows `start` up to `stop` of one fragment, (stop - start,) int64.

    Example:
        >>> row_ids(1, 0, 2) - 2**40
        tensor([0, 1])
    """
    import torch

    base = fragment << OFFSET_BITS
    return torch.arange(base + start, base + stop, dtype=torch.int64)


def fragment_of(ids: Tensor) -> Tensor:
    """Return the fragment number of each id.

    Example:
        >>> fragment_of(row_ids(3, 7, 9))
        tensor([3, 3])
    """
    return ids >> OFFSET_BITS


def offset_of(ids: Tensor) -> Tensor:
    """Return the offset of each id within its fragment.

    Example:
        >>> offset_of(row_ids(3, 7, 9))
        tensor([7, 8])
    """
    return ids & _MASK


def ranges(ids: Tensor) -> dict[int, list[tuple[int, int]]]:
    """Return rows as sorted, merged [start, stop) ranges per fragment; a repeated id counts once.

    Example:
        >>> import torch
        >>> ranges(torch.cat([row_ids(0, 5, 7), row_ids(2, 0, 1), row_ids(0, 0, 5)]))
        {0: [(0, 7)], 2: [(0, 1)]}
    """
    merged: dict[int, list[tuple[int, int]]] = {}
    values = np.unique(ids.numpy(force=True))
    if not len(values):
        return merged
    # A run ends where the next id is not the next integer, or is the first row of another fragment.
    ends = np.flatnonzero((np.diff(values) != 1) | (np.diff(values >> OFFSET_BITS) != 0))
    firsts = values[np.concatenate([[0], ends + 1])]
    lasts = values[np.concatenate([ends, [len(values) - 1]])]
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        merged.setdefault(first >> OFFSET_BITS, []).append((first & _MASK, (last & _MASK) + 1))
    return merged
