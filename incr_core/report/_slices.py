"""Report section on the slices of a run: a table, the worst first."""

from __future__ import annotations

import pyarrow as pa

from incr_core.report._sections import html_table, section
from incr_core.report._slice_standings import FEW, slice_standings
from incr_core.report._words import count, escaped, number, words

__all__ = ["slices"]

_MOST_ROWS = 40


def slices(table: pa.Table) -> str:
    """The section on slices; empty if the job names none. table: the table of metrics."""
    found = slice_standings(table)
    if not found:
        return ""
    metric = words(found[0].metric)
    rows = [
        [escaped(one.slice), number(one.value), number(one.gap), number(one.recent), count(one.rows)]
        for one in found[:_MOST_ROWS]
    ]
    left = len(found) - len(rows)
    note = (
        f"Each row is predicted before it is learned. The worst by {metric} first, those of fewer than {FEW} rows "
        "last. Gap: how much worse than all rows. Recent: over the newest tenth of its rows."
    )
    body = html_table(["slice", metric, "gap", "recent", "rows"], rows, numeric=(1, 2, 3, 4))
    return section("Slices", note, body + (f"<p>and {count(left)} better ones</p>" if left > 0 else ""))
