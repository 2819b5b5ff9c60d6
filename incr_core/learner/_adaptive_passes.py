"""How often an increment is passed over, where that is left open: often while few rows are known, once later."""

from __future__ import annotations

import math

__all__ = ["MOST_PASSES", "passes_after"]

MOST_PASSES = 10

PACE = 450.0
"""All passes over n rows take the time of 2 * 450 sqrt(n) rows, where that is more than n."""


def passes_after(rows: float) -> int:
    """Passes over an increment before which so many rows were learned: 450 / sqrt(rows), from 1 to 10.

    One pass of a few rows is too few steps to get anywhere; of many it is enough, and several cost as many times the
    time. With this, all passes over 20,000 rows cost five times one, and over 200,000 rows 1.6 times.

    >>> [passes_after(rows) for rows in (0, 2_000, 8_000, 20_000, 50_000, 200_000)]
    [10, 10, 5, 3, 2, 1]
    """
    return MOST_PASSES if rows < 1 else max(1, min(MOST_PASSES, int(PACE / math.sqrt(rows))))
