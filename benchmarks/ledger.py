"""What a run keeps of itself: bytes, files and seconds of commits, and of the ledger for rows dealt in several ways.

    python benchmarks/ledger.py --commits 10000 --rows 10000000

Prints a commit's milliseconds, fsyncs and seconds waiting for these, early in a run and late, with weights of two
versions kept; what the run directory holds then; and the ledger's bytes and seconds for rows in order, dealt in blocks,
and by hash, with what a run that is opened again needs to know them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from incr_core.data import row_ids
from incr_core.registry import RunDirectory, state_folder
from incr_core.registry.ledger import SCHEMA, Coverage, entry_table
from incr_core.storage import checkpoint, parquet_bytes, read_table

METRICS = ["rows_arriving", "rows_labelled", *(f"metric.{number}" for number in range(8)), "loss.loss", "seconds"]


class Waits:
    """Counts fsyncs, and the seconds that something waits for one or several of them."""

    def __init__(self) -> None:
        self.count, self.seconds, self._real = 0, 0.0, os.fsync
        os.fsync = self._counted  # type: ignore[assignment]

    def _counted(self, descriptor: int) -> None:
        begun = time.perf_counter()
        self._real(descriptor)
        self.count += 1
        self.seconds += time.perf_counter() - begun


def commit(run: RunDirectory, rows: int, weights: dict[str, Tensor]) -> None:
    """What the loop does for an increment of so many rows, with one participant."""
    version = run.next_version()
    ids = row_ids(0, (version - 1) * rows, version * rows)
    with checkpoint.unsynced() as unsynced:
        checkpoint.save(state_folder(run.path, "all", version), {"learner": weights, "step": version})
    run.commit(
        weights,
        manifest={"increment": version, "name": f"increment {version}"},
        metrics=pa.table({"increment": [version], **{name: [0.5] for name in METRICS}, "version": [version]}),
        ledger=entry_table(version, "all", ids, ["rows.parquet"], increment=version),
        state={"totals": {"increments": version}, "engine": {}},
        participants=["all"],
        unsynced=unsynced,
    )


def commits(count: int, rows: int) -> None:
    """Time commits along a run, and measure its directory."""
    waits, weights = Waits(), {"weight": torch.zeros(64, 64), "bias": torch.zeros(64)}
    with tempfile.TemporaryDirectory() as place, RunDirectory.create(place, "", "f00d", keep=2) as run:
        times, fsyncs = [], []
        for _ in range(count):
            before, begun = waits.count, time.perf_counter()
            commit(run, rows, weights)
            times.append(1000 * (time.perf_counter() - begun))
            fsyncs.append(waits.count - before)
            if (number := len(times)) in {10, 100, 1000, 10_000, 100_000, 1_000_000, count}:
                last = np.array(times[-min(number, 320) :])
                files = [file for file in Path(place).rglob("*") if file.is_file()]
                size = sum(file.stat().st_size for file in files)
                print(
                    f"commit {number:>9,}: median {np.median(last):6.2f} ms, mean {last.mean():6.2f}, most "
                    f"{last.max():6.1f}; {np.median(fsyncs[-320:]):.0f} fsyncs; in all {sum(times) / 1000:.1f} s, "
                    f"{len(files)} files, {size / 1e6:.2f} MB"
                )


def in_order(rows: int, commits: int) -> Iterator[pa.Table]:
    """Each commit learns the next rows."""
    each = rows // commits
    for version in range(commits):
        ids = row_ids(0, version * each, (version + 1) * each)
        yield entry_table(version, "all", ids, ["rows.parquet"], increment=version)


def dealt(rows: int, commits: int, owner: Callable[[np.ndarray], np.ndarray]) -> Iterator[pa.Table]:
    """Each commit learns the next rows, each by its owner of two."""
    each = rows // commits
    for version in range(commits):
        ids = np.arange(version * each, (version + 1) * each)
        mine = owner(ids)
        for number in range(2):
            table = torch.from_numpy(ids[mine == number])
            yield entry_table(version, f"replica {number}", table, ["rows.parquet"], increment=version)


def ledgers(rows: int) -> None:
    """The bytes of a whole ledger, and the seconds to make its entries, to write them, and to know them again."""
    rng = np.random.default_rng(0)
    ways = {
        "in order": in_order(rows, max(rows // 100_000, 1)),
        "in order, 100 times as many": in_order(100 * rows, max(rows // 1000, 1)),
        "blocks of 32 to two": dealt(rows, max(rows // 100_000, 1), lambda ids: ids // 32 % 2),
        "by hash to two": dealt(rows, max(rows // 100_000, 1), lambda ids: rng.integers(0, 2, len(ids))),
    }
    for name, tables in ways.items():
        begun = time.perf_counter()
        table = pa.concat_tables([SCHEMA.empty_table(), *tables])
        made = time.perf_counter()
        content = parquet_bytes(table)
        written = time.perf_counter()
        covered = Coverage()
        covered.add(read_table("ledger.parquet", content))
        known = time.perf_counter()
        print(
            f"{name:28} {covered.rows:>13,} rows: {len(content) / 1e6:7.3f} MB; made in {made - begun:5.1f} s, written "
            f"in {written - made:4.1f} s, known again in {known - written:4.1f} s"
        )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=10_000)
    parser.add_argument("--rows-each", type=int, default=1000, help="rows of an increment")
    parser.add_argument("--rows", type=int, default=10**7, help="rows of the ledgers that are compared")
    options = parser.parse_args()
    if options.rows:
        ledgers(options.rows)
    if options.commits:
        commits(options.commits, options.rows_each)


if __name__ == "__main__":
    main()
