"""Adaptive number of passes over an increment: many while few rows are known, one later."""

from __future__ import annotations

import math

__all__ = ["MOST_PASSES", "passes_after"]

MOST_PASSES = 8

FEW = 600
"""Rows below which the most passes are made."""

THEN = 6
"""Most passes after that."""

PACE = 450.0
"""All passes over n rows cost 2 * 450 sqrt(n) rows, where that is below the most passes and exceeds n."""


def passes_after(rows: float) -> int:
    """Return the passes over an increment after `rows` learned rows: 8 below 600, then 450 / sqrt(rows) from 6 to 1.

    One pass over few rows has too few steps to make progress. One pass over many rows suffices, and more passes
    multiply the time. With this rule all passes over 20,000 rows cost five times one pass, and over 200,000 rows 1.6
    times.

    Example:
        >>> [passes_after(rows) for rows in (0, 2_000, 8_000, 20_000, 50_000, 200_000)]
        [8, 6, 5, 3, 2, 1]
    """
    return MOST_PASSES if rows < FEW else max(1, min(THEN, int(PACE / math.sqrt(rows))))
