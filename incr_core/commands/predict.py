"""`incr predict` and `incr evaluate`: predictions for the rows of a file, and their metrics."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from incr_core._util import json_text
from incr_core.errors import ArgumentError
from incr_core.runs import Version, explain, prequential_at, rows_seen, with_columns
from incr_core.shown import shown
from incr_core.storage import located, write_atomically

__all__ = ["evaluate", "for_a_terminal", "predict"]

REASONS = 3
"""Number of refused rows that are printed with their reasons."""


def predict(options: argparse.Namespace) -> int:
    """Predict the rows of a file, and report rows that cannot be used. Return the exit code."""
    output = None if options.output is None else Path(options.output)
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        got = "a folder" if output.is_dir() else f"no folder {output.parent}"
        raise ArgumentError(f"--output {output}: expected a file in a folder that is there, got {got}; name another")
    version = Version.load(options.directory, options.version, client=options.client)
    table, bad = version.answer(options.rows)
    effects = explain(version, options.rows) if options.explain else None
    keep = [name for name in (options.keep or "").split(",") if name]
    table = with_columns(table, options.rows, keep, version.job)
    if effects is not None:
        table = effects.beside(table)
    if output is None:
        csv.write_csv(for_a_terminal(table) if sys.stdout.isatty() else table, sys.stdout.buffer)
    else:
        write = csv.write_csv if output.suffix == ".csv" else pq.write_table
        write_atomically(output, lambda file: write(table, file))
        print(f"{table.num_rows - len(bad):,} predictions: {shown(options.output)}")
    if effects is not None:
        told_of = ", ".join(f"{shown(name, 60)} {value:.4g}" for name, value in effects.overall.items())
        print(f"incr: mean effect on the {effects.of}: {told_of}", file=sys.stderr)
    if not table.num_rows:
        print(f"incr: 0 rows in {shown(options.rows)}; nothing was predicted", file=sys.stderr)
    if bad:
        told = [
            f'row {row.offset}: {shown(row.column)}: {shown(row.reason)} ("{shown(row.value, 60)}")'
            if row.column
            else f"row {row.offset}: {shown(row.reason)}"
            for row in bad[:REASONS]
        ]
        more = "; ..." if len(bad) > REASONS else ""
        print(
            f"incr: {len(bad):,} of {table.num_rows:,} rows of {shown(options.rows)} cannot be used, their "
            f"predictions are null: {'; '.join(told)}{more}",
            file=sys.stderr,
        )
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Measure a version on the labelled rows of a file. Return the exit code."""
    version = Version.load(options.directory, options.version, client=options.client)
    found = version.evaluate(options.rows)
    directory = located(options.directory)
    seen = rows_seen(directory, version.job, options.rows, version.number)
    before = prequential_at(directory, version.number) if seen else {}
    if seen:
        found |= {"rows_learned": seen, "prequential": before}
    if options.json:
        print(json_text(found))
    else:
        for name, value in found.items():
            if name != "prequential":
                print(f"{shown(name):20} {value:,.4f}" if isinstance(value, float) else f"{shown(name):20} {value:,}")
        if seen:
            main = version.learner.objective.main_metric
            honest = f"prequential {shown(main)} {before[main]:,.4f}" if main in before else "none was predicted before"
            rows = found["rows"] + found["rows_refused"]
            memory = "; these numbers measure memory" if 2 * seen > rows else ""
            print(
                f"incr: version {version.number} has learned {seen:,} of the {rows:,} rows of this file{memory}; on "
                f"all rows before they were learned: {honest}",
                file=sys.stderr,
            )
    return 0


def for_a_terminal(table: pa.Table) -> pa.Table:
    """Return the table with control characters in names and labels escaped, for a terminal. Files do not."""
    columns = [
        pa.array([None if value is None else shown(value) for value in column.to_pylist()])
        if pa.types.is_string(column.type)
        else column
        for column in table.columns
    ]
    return pa.table(columns, names=[shown(name) for name in table.column_names])
