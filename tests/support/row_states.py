"""A stream whose rows come to be in every state, runs of it that are stopped midway, and how to tamper with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from incr_core.data.times import SECOND
from incr_core.storage import archive_bytes, checksummed, parquet_bytes, parse_checksummed, read_archive, read_table
from tests.support.streams import faulty

TICK = 16 * 3600 * SECOND


def mixed(folder: Path) -> dict[str, Any]:
    """The files of `faulty`, in which every eleventh row besides has no label time; and the document of a job on them.

    100 rows in three files that can be read: one of them is bad, ten are duplicates.
    """
    document = faulty(folder)
    for file in sorted(folder.iterdir()):
        if file.name == "part-1.parquet":
            continue
        table = pq.read_table(file)
        known = [None if row % 11 == 0 else value for row, value in zip(*_columns(table, "id", "known"), strict=True)]
        pq.write_table(table.set_column(1, "known", pa.array(known, pa.timestamp("us"))), file)
    return document


def _columns(table: pa.Table, *names: str) -> list[list[Any]]:
    return [table[name].to_pylist() for name in names]


def counts(folder: Path, ticks: int) -> dict[str, int]:
    """What the files of `mixed` say of their rows after so many ticks of 16 hours: worked out of times alone."""
    tables = [pq.read_table(file) for file in sorted(folder.iterdir()) if file.name != "part-1.parquet"]
    table = pa.concat_tables(tables)
    at = table["at"].cast(pa.int64()).to_numpy()
    known = table["known"].cast(pa.int64()).fill_null(np.iinfo(np.int64).max).to_numpy()
    ids = table["id"].to_numpy()
    bad = at > 3_900_000_000 * SECOND
    # A bad row stands where its file begins.
    at = np.where(bad, at[(ids >= 60) & (ids < 90) & ~bad].min(), at)
    first = np.unique(ids, return_index=True)[1]
    again = ~np.isin(np.arange(len(ids)), first)
    # Of a row that comes twice, the one in the file before is learned: they arrive at the same time.
    clock = at.min() // TICK * TICK + ticks * TICK
    never = known == np.iinfo(np.int64).max
    arrived = at < clock
    learned = arrived & (known < clock) & ~bad & ~again
    return {
        "learned": int(learned.sum()),
        "quarantined": int((arrived & bad).sum()),
        "duplicate": int((arrived & again & ~never).sum()),
        "not reached yet": int((~arrived).sum()),
        "without a label": int((arrived & never & ~bad).sum()),
        "waiting for their labels": int((arrived & ~never & (known >= clock) & ~bad & ~again).sum()),
    }


def told(document: dict[str, Any]) -> dict[str, int]:
    """The same counts as an audit's."""
    states, pending = document["states"], document["pending"]
    names = ("not reached yet", "without a label", "waiting for their labels")
    return {name: states[name] for name in ("learned", "quarantined", "duplicate")} | {
        name: pending[name] for name in names
    }


def rewrite(run: Path, version: int, name: str, change: Callable[[pa.Table], pa.Table], *, told: bool = True) -> None:
    """Change a table of a version, and all that is said of it elsewhere: hashes, counts, segments.

    told: whether manifest and metrics say how many rows are in its ledger then.
    """
    path = run / "versions" / str(version) / "commit.zip"
    files = read_archive(path)
    manifest = parse_checksummed(files["manifest.json"], path)
    table = change(read_table(f"{name}.parquet", files[f"{name}.parquet"]))
    files[f"{name}.parquet"] = parquet_bytes(table)
    manifest["tables"][name] = table.num_rows
    if name == "ledger" and told:
        manifest["rows"] = sum(table["rows"].to_pylist())
        found = read_table("metrics.parquet", files["metrics.parquet"])
        rows = [0] * (len(found) - 1) + [manifest["rows"]]
        found = found.set_column(found.column_names.index("rows_labelled"), "rows_labelled", pa.array(rows))
        files["metrics.parquet"] = parquet_bytes(found)
    files["manifest.json"] = checksummed(manifest)
    path.write_bytes(archive_bytes(files))
    (run / "segments.json").unlink(missing_ok=True)  # written anew from the versions, when a run is opened


def entries(table: pa.Table, change: Callable[[list[dict[str, Any]]], Any]) -> pa.Table:
    """A table whose rows, as dicts, are changed in place."""
    rows = json.loads(json.dumps(table.to_pylist()))
    change(rows)
    for row in rows:
        if "ranges" in row:
            row["rows"] = sum(pair["stop"] - pair["start"] for pair in row["ranges"])
    return pa.Table.from_pylist(rows, schema=table.schema)
