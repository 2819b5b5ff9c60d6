"""`incr compare`: several runs side by side."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from incr_core._util import json_text
from incr_core.report import write_comparison
from incr_core.runs import Compared, Comparison, compare
from incr_core.shown import shown

__all__ = ["compare_runs", "described"]

MOST_METRICS = 5
"""Number of metrics that fit on a line."""


def compare_runs(options: argparse.Namespace) -> int:
    """Print the comparison, and write the page if `--out` names one."""
    found = compare(options.directories)
    print(json_text(found.document()) if options.json else described(found))
    if options.out is not None:
        path = write_comparison(Path(options.out), found.document())
        if not options.json:
            print(f"  page: {path}")
    return 0


def described(found: Comparison) -> str:
    """Return a line for each run, and the settings in which the runs differ.

    A line has the difference of the run's first metric from that of the first run.

    Example:
        >>> ours = Compared("plain", "runs/plain", "local", 900, 900, 5000.0, 9, {"auc": 0.70, "log_loss": 0.6})
        >>> other = Compared("replay", "runs/replay", "local", 900, 800, None, 9, {"auc": 0.72, "log_loss": 0.5})
        >>> print(described(Comparison([ours, other], "auc", {"strategy": ["-", "replay"]}, ["rows differ"])))
        run     engine     auc   +/-     log_loss  rows learned  rows/s
        plain   local   0.7000             0.6000           900   5,000
        replay  local   0.7200  +0.0200    0.5000           900       -
          note: rows differ
          strategy: - (plain), replay (replay)
    """
    metrics = list(found.runs[0].metrics)[:MOST_METRICS]
    head = ["run", "engine", *metrics, "rows learned", "rows/s"]
    if metrics:
        head.insert(3, "+/-")
    table = [head, *(_cells(one, found.runs[0], metrics) for one in found.runs)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    left = (0, 1, head.index("+/-") if metrics else 0)
    lines = [
        "  ".join(
            f"{cell:<{width}}" if place in left else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    lines += [f"  note: {shown(caution)}" for caution in found.cautions]
    for name, said in found.settings.items():
        each = (f"{shown(value)} ({shown(one.name)})" for one, value in zip(found.runs, said, strict=True))
        lines.append(f"  {shown(name)}: {', '.join(each)}")
    return "\n".join(lines)


def _cells(one: Compared, first: Compared, metrics: Sequence[str]) -> list[str]:
    values = [one.metrics.get(name) for name in metrics]
    cells = [f"{value:.4f}" if value is not None and math.isfinite(value) else "-" for value in values]
    if metrics:
        value = values[0]
        cells.insert(1, "" if value is None or one is first else f"{value - first.metrics[metrics[0]]:+.4f}")
    speed = "-" if one.rows_per_second is None else f"{one.rows_per_second:,.0f}"
    return [shown(one.name), one.engine, *cells, f"{one.rows_learned:,}", speed]
