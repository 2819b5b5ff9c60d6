"""`incr init`: describe the columns of rows, and write a job that learns them."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq

from incr_core._util import unknown
from incr_core.errors import ArgumentError
from incr_core.job import Proposal, job_text, looked_at, propose
from incr_core.shown import shown
from incr_core.storage import is_address, write_atomically

__all__ = ["described", "init"]

USES = {
    "label": "label",
    "predict_at": "clock",
    "label_at": "label time",
    "numeric": "number",
    "categorical": "hashed",
    "text": "words",
    "date": "date parts",
    "ids": "id rows",
    "exclude": "left out",
}
"""The use of a column, in a word or two."""

MOST_TOLD = 60
"""Number of columns that are described one by one."""

CLIMBS = 2
"""Number of parent folders up to which a job file names its data by a relative path."""


def init(options: argparse.Namespace) -> int:
    """Print the description of the rows and write a job. Return the exit code."""
    if options.example is not None:
        return _example(options.example, options.label, options.out)
    out = Path(options.out or "job.toml")
    if out.exists() or not out.absolute().parent.is_dir():
        got = "one that is there" if out.exists() else f"no folder {shown(out.parent)}"
        remedy = "name another, or take it away" if out.exists() else "make it"
        raise ArgumentError(f"out {shown(out)}: expected a new file in a folder that is there, got {got}; {remedy}")
    if options.label is None:
        print(described(looked_at(options.rows)))
        raise ArgumentError("label: expected the column that is to be predicted, got none; name one of these")
    proposal = propose(options.rows, options.label)
    name = _name_of(options.rows)
    typed = shlex.join(["incr", "init", shown(options.rows), "--label", shown(options.label)])
    written = job_text(proposal, path=_path_from(out, options.rows), name=name, command=typed)
    write_atomically(out, written.encode())
    print(described(proposal))
    print(f"\nwrote {shown(out)}; learn it with: incr run {shown(out)} --out runs/{shown(name)}")
    return 0


def _example(name: str, label: str | None, out: str | None) -> int:
    """Write an example's rows and job into a folder. Return the exit code."""
    from incr_core.commands._example_rows import EXAMPLES

    if name not in EXAMPLES:
        raise ArgumentError(f"example: {unknown('an example', name, EXAMPLES)}")
    if label is not None:
        raise ArgumentError("label: expected none with --example, which has one; leave it out, or name rows of yours")
    example, job = EXAMPLES[name], Path(out or f"{name}/job.toml")
    rows = job.parent / "rows.parquet"
    for path in (job, rows):
        if path.exists():
            raise ArgumentError(
                f"out {shown(job)}: expected a folder without {path.name}, got one with it; name another"
            )
    table = example.rows()
    job.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(rows, lambda file: pq.write_table(table, file))
    proposal = propose(rows, example.label)
    for column in proposal.columns:
        if column.name == example.settings.get("label_at"):
            column.use, column.why = "label_at", "when the label is known"
    written = job_text(proposal, path=rows.name, name=name, command=f"incr init --example {name}")
    for key, value in example.settings.items():
        written = re.sub(rf"^(# )?{key} = .*$", f'{key} = "{value}"', written, flags=re.MULTILINE)
    write_atomically(job, f"# {example.what}\n{written}".encode())
    print(f"{example.what}\n\n{described(proposal)}")
    print(f"\nwrote {shown(rows)} and {shown(job)}; learn it with: incr run {shown(job)} --out runs/{name}")
    return 0


def described(proposal: Proposal) -> str:
    """Return a proposal as text: a table of its columns, and notes."""
    sample = proposal.sample
    seen = "" if sample.whole else f", {len(sample.table):,} of them looked at"
    rows = f"{sample.rows:,} rows" if sample.rows is not None else "many rows"
    files = f"{sample.files:,} files, " * (sample.files > 1)
    lines = [f"{shown(proposal.path)}: {files}{rows}, {len(proposal.columns)} columns{seen}", ""]
    chosen = proposal.label is not None
    cells = [("column", "kind", "distinct", "missing", "example", "used as" if chosen else "", "")]
    for column in proposal.columns[:MOST_TOLD]:
        kind = column.kind
        cells.append(
            (
                shown(column.name, 30),
                kind.name,
                f"{kind.distinct:,}" if kind.distinct else "",
                _share(kind.missing, len(sample.table)),
                shown(column.example, 24),
                USES[column.use] if chosen else "",
                shown(column.why, 80),
            )
        )
    widths = [max(len(row[at]) for row in cells) for at in range(6)]
    for row in cells:
        aligned = [f"{row[at]:>{width}}" if at in (2, 3) else f"{row[at]:{width}}" for at, width in enumerate(widths)]
        lines.append("  ".join([*aligned, row[6]]).rstrip())
    if (more := len(proposal.columns) - MOST_TOLD) > 0:
        lines.append(f"and {more:,} more columns" + ", which the job file names" * chosen)
    lines += [f"\n{note}" for note in _notes(proposal)]
    return "\n".join(lines)


def _notes(proposal: Proposal) -> list[str]:
    notes = []
    if proposal.csv is not None:
        told = ", ".join(f'{key} "{shown(value)}"' for key, value in proposal.csv.settings.items())
        notes.append(f"CSV with {told}: stream.csv says so")
    notes += [
        f"{shown(name, 60)}: {count:,} times have no zone, others have one; stream.time_zone says what they mean"
        for name, count in proposal.times.without_zone.items()
    ]
    if proposal.label is not None and proposal.label.missing:
        notes.append(f"{proposal.label.missing:,} of these rows have no label: they are not learned (on_bad_row)")
    if proposal.empty_rows:
        notes.append(
            f"{proposal.empty_rows:,} rows are empty but for their label: they contain no information; check them"
        )
    leaks = [shown(c.name, 60) for c in proposal.used_as("exclude") if c.leaks]
    if leaks:
        notes.append(
            f"left out as too good to be true: {', '.join(leaks)}; if known when a row is predicted, "
            "name it as a feature instead"
        )
    return notes


def _share(part: int, whole: int) -> str:
    return "" if not part else f"{100 * part / whole:.0f}%" if 100 * part >= whole else "<1%"


def _name_of(rows: str) -> str:
    """Return the name of a run of these rows: that of their file or folder."""
    name = Path(rows.split("*")[0].rstrip("/")).name.split(".")[0] or Path(rows).absolute().parent.name
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name).strip("-") or "job"


def _path_from(out: Path, rows: str) -> str:
    """Return the path of the rows relative to the job file's folder."""
    if is_address(rows):
        return rows
    whole = Path(rows).expanduser().absolute()
    relative = os.path.relpath(whole, out.absolute().parent)
    return relative if relative.split(os.sep).count("..") <= CLIMBS else str(whole)
