"""`incr tune`: search for better settings of a job, and print the table of trials."""

from __future__ import annotations

import argparse
import sys

from incr_core._util import json_text
from incr_core.engines import Outcome
from incr_core.runs import Tuned, tune
from incr_core.shown import shown

__all__ = ["described", "tune_job"]


def tune_job(options: argparse.Namespace) -> int:
    """Search, and print each outcome when it is known and then the table. Return the exit code."""
    begun = 0

    def on_outcome(outcome: Outcome) -> None:
        nonlocal begun
        begun += 1
        print(f"trial {outcome.trial.number} ({begun} of at most {options.trials}): {_reached(outcome)}", flush=True)

    found = tune(
        options.job,
        options.space,
        options.out,
        trials=options.trials,
        rows=options.rows,
        seed=options.seed,
        keep=options.keep,
        on_outcome=on_outcome if not options.json else lambda outcome: None,
    )
    print(json_text(found.document()) if options.json else described(found))
    if found.best is None:
        print("incr: no trial has learned all of its rows; see the faults above", file=sys.stderr)
    return 0 if found.best is not None else 1


def described(found: Tuned) -> str:
    """Return a line for each trial, best first, and the path of the best trial's job.

    Example:
        >>> from pathlib import Path
        >>> from incr_core.engines import Trial
        >>> as_is, other = Trial(0, ()), Trial(1, ("learner.batch_size=64",))
        >>> outcomes = Outcome(as_is, 900, 0.70), Outcome(other, 900, 0.72)
        >>> print(described(Tuned("auc", True, 900, outcomes, outcomes[1], Path("runs/x/best.toml"))))
        trial     auc  rows  settings
            1  0.7200   900  learner.batch_size=64
            0  0.7000   900  the job as it is
        best: trial 1, auc 0.7200 (+0.0200): runs/x/best.toml
    """
    table = [("trial", found.metric, "rows", "settings")]
    for one in found.ranked():
        value = "-" if one.value is None else f"{one.value:.4f}"
        said = " ".join(one.trial.settings) or "the job as it is"
        table.append((str(one.trial.number), value, f"{one.rows:,}", said + (f"   {one.fault}" if one.fault else "")))
    widths = [max(len(row[place]) for row in table) for place in range(3)]
    lines = [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False)) + f"  {shown(row[3])}"
        for row in table
    ]
    best, first = found.best, found.outcomes[0]
    if best is not None and best.value is not None:
        gain = "" if first.value is None or first.rows != best.rows else f" ({best.value - first.value:+.4f})"
        lines.append(f"best: trial {best.trial.number}, {found.metric} {best.value:.4f}{gain}: {found.path}")
    return "\n".join(lines)


def _reached(one: Outcome) -> str:
    if one.fault is not None:
        return shown(one.fault)
    return f"{one.rows:,} rows" if one.value is None else f"{one.value:.4f} after {one.rows:,} rows"
