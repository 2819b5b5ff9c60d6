"""Rows over Arrow Flight until they are durable: MB/s of `incr ingest`, beside pyarrow writing the same batches.

    python -m benchmarks.flight_ingest

Both write 256 MB in batches of 4 MB, in turns; the table has medians. `incr ingest` is a process of its own on the
loopback address, and the clock stops when the last batch is acknowledged. The peer has the batches in memory: it writes
one Arrow file for 32 MB, syncs it, and has no network. `--writers` send at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from incr_core.ingest import IngestWriter

RESULTS = Path(__file__).parent / "results" / "flight_ingest.json"
TOTAL, BATCH, FILE = 256 << 20, 4 << 20, 32 << 20


def batches() -> list[pa.RecordBatch]:
    """Ten columns of float64."""
    draw = np.random.default_rng(0)
    rows = BATCH // 80
    columns = {f"x{number}": draw.normal(size=rows) for number in range(10)}
    return [pa.record_batch(columns)] * (TOTAL // BATCH)


def ours(folder: Path, rows: Sequence[pa.RecordBatch], writers: int) -> float:
    """Seconds of `incr ingest`."""
    command = [sys.executable, "-m", "incr_core.commands.cli", "ingest", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        shares = [rows[place::writers] for place in range(writers)]

        def send(place: int) -> None:
            with IngestWriter(address, "rows", f"writer-{place}") as writer:
                for batch in shares[place]:
                    writer.write(batch)

        threads = [threading.Thread(target=send, args=(place,)) for place in range(writers)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - begun
    finally:
        process.terminate()
        process.communicate()


def peers(folder: Path, rows: Sequence[pa.RecordBatch]) -> float:
    """Seconds of pyarrow and fsync alone."""
    begun = time.perf_counter()
    count = FILE // BATCH
    for number in range(0, len(rows), count):
        with open(folder / f"{number}.arrow", "wb") as file:
            with pa.ipc.new_file(file, rows[0].schema) as writer:
                for batch in rows[number : number + count]:
                    writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
    return time.perf_counter() - begun


def main() -> None:
    """Print the table, and write it as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--writers", type=int, default=1)
    options = parser.parse_args()
    rows = batches()
    size = sum(batch.nbytes for batch in rows) / 1e6
    taken: dict[str, list[float]] = {"incr ingest": [], "pyarrow": []}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            taken["incr ingest"].append(ours(Path(folder), rows, options.writers))
        with tempfile.TemporaryDirectory() as folder:
            taken["pyarrow"].append(peers(Path(folder), rows))
    found = {name: size / statistics.median(seconds) for name, seconds in taken.items()}
    for name, speed in found.items():
        print(f"{name:12} {speed:8.0f} MB/s")
    RESULTS.write_text(
        json.dumps({"megabytes_per_second": found, "writers": options.writers, "seconds": taken}, indent=1)
    )


if __name__ == "__main__":
    main()
