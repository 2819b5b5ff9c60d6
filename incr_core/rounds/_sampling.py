"""Uniform sampling of rows without state: the rows whose ids have the smallest hashes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.data.timeline import Tick

__all__ = ["Sampling", "ids_of", "smallest"]

FIBONACCI = 0x9E3779B97F4A7C15 - (1 << 64)
"""2^64 over the golden ratio, as an int64 (Knuth 1973, 6.4)."""

HOUR = 3_600_000_000
"""In microseconds."""


class Sampling:
    """Selection of the rows to learn where an increment has more rows than the job's limits allow.

    Args:
        rows_per_hour: Maximum number of rows to learn per hour of the stream. None: no limit.
        participants: Number of participants that divide one stream, and therefore this limit.

    Attributes:
        share: Share of the rows to learn. The loop lowers it where increments take too long.

    Example:
        >>> sampling = Sampling(4, participants=2)
        >>> ids = torch.arange(10)
        >>> sampling.kept(ids, Tick(1, "second", time=HOUR), {"time": 0}).tolist()
        [5, 6]
        >>> len(sampling.kept(ids, Tick(0, "first", time=HOUR), None))
        10
    """

    def __init__(self, rows_per_hour: float | None, participants: int) -> None:
        self.rows_per_hour, self.participants, self.share = rows_per_hour, participants, 1.0

    def kept(self, ids: Tensor, tick: Tick, before: Mapping[str, Any] | None) -> Tensor:
        """Places (k,) of the rows to learn, in their order.

        Args:
            ids: Ids of the rows that may be learned, (n,).
            tick: The increment.
            before: The stream's position before the increment (`Increment.cursor`). No row is left out of a warm start
                or of a first increment, whose duration is unknown.
        """
        most = len(ids)
        began = (before or {}).get("time")
        if not tick.warm and began is not None:
            most = min(most, math.ceil(self.share * most))
            if self.rows_per_hour is not None:
                allowed = self.rows_per_hour * (tick.time - began) / HOUR
                most = min(most, int(allowed) // self.participants)
        return smallest(ids, most)


def ids_of(rows: Batch) -> Tensor:
    """The ids (n,) of rows of a stream."""
    assert rows.row_ids is not None, "rows of a stream have ids"
    return rows.row_ids


def smallest(ids: Tensor, count: int) -> Tensor:
    """The places of the `count` ids with the smallest hashes, in their order.

    Example:
        >>> smallest(torch.arange(6), 2).tolist()
        [0, 5]
    """
    if len(ids) <= count:
        return torch.arange(len(ids))
    hashes = ids * FIBONACCI  # int64 wraps
    hashes = (hashes ^ (hashes >> 29)) * FIBONACCI
    return hashes.argsort(stable=True)[:count].sort().values
