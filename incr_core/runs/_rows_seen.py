"""Rows of an evaluation that a version has learned, and its metrics on rows before it learned them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from incr_core.data.sources import FileSource, file_fingerprint
from incr_core.errors import StreamError
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.runs._learned_rows import learned_rows

__all__ = ["prequential_at", "rows_seen"]


def rows_seen(directory: Path, job: Job, rows: str | Path, version: int) -> int:
    """Return the number of rows of a file that a version has learned, if it is a file of the stream or a copy of one.

    The result is 0 if no file of the stream has these bytes, or if the stream has no files.
    """
    source, file = job.files(), Path(rows)
    if not isinstance(source, FileSource) or not file.is_file():
        return 0
    ledger = RunDirectory.open(directory).table("ledger")
    known = [name for name, path in source.paths.items() if _same(path, file)]
    count = 0
    for name in known:
        offsets = np.arange(_most(ledger, name))
        found = learned_rows(ledger, pa.table({"fragment": [name] * len(offsets), "offset": offsets}))
        count += int((found["version"].to_numpy() <= version).sum())
    return count


def _same(path: Any, file: Path) -> bool:
    """Return whether a file of the stream is this one or has the same bytes."""
    try:
        if isinstance(path, Path) and path.samefile(file):
            return True
        return bool(path.stat().st_size == file.stat().st_size) and file_fingerprint(path) == file_fingerprint(file)
    except (OSError, StreamError):
        return False


def _most(ledger: pa.Table, name: str) -> int:
    """One more than the last offset that the ledger has for a fragment."""
    stops = [
        span["stop"]
        for fragment, spans in zip(ledger["fragment"].to_pylist(), ledger["ranges"].to_pylist(), strict=True)
        if fragment == name
        for span in spans
    ]
    return max(stops, default=0)


def prequential_at(directory: Path, version: int) -> dict[str, float]:
    """Metrics of all rows predicted before they were learned, up to a version; {} if there are none."""
    table = RunDirectory.open(directory).table("metrics")
    if "version" not in table.column_names:
        return {}
    rows = [row for row in table.to_pylist() if row["version"] <= version]
    last = rows[-1] if rows else {}
    totals = {name.removeprefix("total."): value for name, value in last.items() if name.startswith("total.")}
    return {name: float(value) for name, value in totals.items() if value is not None and not math.isnan(value)}
