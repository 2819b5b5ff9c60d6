"""Whether rows that a version is measured on were learned by it, and what it came to on rows before it learned them."""

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
    """How many rows of a file a version has learned: of a file of the stream, or a copy of one.

    0 where the file is none of the stream's, or the stream is not one of files that are there.
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
    """Whether a file of the stream is this one, or holds the same bytes."""
    try:
        if isinstance(path, Path) and path.samefile(file):
            return True
        return bool(path.stat().st_size == file.stat().st_size) and file_fingerprint(path) == file_fingerprint(file)
    except (OSError, StreamError):
        return False


def _most(ledger: pa.Table, name: str) -> int:
    """One more than the last offset that the ledger has of a fragment."""
    stops = [
        span["stop"]
        for fragment, spans in zip(ledger["fragment"].to_pylist(), ledger["ranges"].to_pylist(), strict=True)
        if fragment == name
        for span in spans
    ]
    return max(stops, default=0)


def prequential_at(directory: Path, version: int) -> dict[str, float]:
    """The metrics of all rows predicted before they were learned, up to a version; {} where none were."""
    table = RunDirectory.open(directory).table("metrics")
    if "version" not in table.column_names:
        return {}
    rows = [row for row in table.to_pylist() if row["version"] <= version]
    last = rows[-1] if rows else {}
    totals = {name.removeprefix("total."): value for name, value in last.items() if name.startswith("total.")}
    return {name: float(value) for name, value in totals.items() if value is not None and not math.isnan(value)}
