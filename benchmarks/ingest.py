"""Parquet to batches: rows per second of `Stream`, beside pyarrow's own read + to_numpy of the same columns.

    python -m benchmarks.ingest

Both read the same file, in turns; the table holds medians. The peer stops at one numpy array a column: it stacks no
matrix, hashes no category and looks for no NaN. It keeps the file's strings as dictionary codes. `--threads` is how
many of them pyarrow may decode with, ours and the peer's; encoding has one of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from incr_core.data.encoding import Encoder
from incr_core.data.timeline import Stream

RESULTS = Path(__file__).parent / "results" / "ingest.json"
NUMERIC = [f"x{index}" for index in range(10)]
CATEGORICAL = ["airline", "airport", "hour", "flight"]
TARGET = 0.8
CASES: dict[str, list[str]] = {"numeric": [], "numeric + categorical": CATEGORICAL}
# The default of DuckDB, and one row group: the layout in which the peer copies nothing.
LAYOUTS = {"row groups of 122,880": 122_880, "one row group": None}


def write(path: Path, rows: int, row_group: int | None = None) -> None:
    """The file: ten numbers (floats and integers, one with nulls), four categories, a label."""
    draw = np.random.default_rng(0)
    columns: dict[str, object] = {}
    for index, name in enumerate(NUMERIC):
        values = draw.normal(size=rows) if index < 7 else draw.integers(0, 1000, rows)
        columns[name] = pa.array(values, mask=draw.random(rows) < 0.05 if index == 0 else None)
    columns["airline"] = np.array([f"A{index}" for index in range(16)])[draw.integers(0, 16, rows)]
    columns["airport"] = np.array([f"P{index}" for index in range(300)])[draw.integers(0, 300, rows)]
    columns["hour"] = draw.integers(0, 24, rows)
    columns["flight"] = draw.integers(0, 5000, rows)
    columns["label"] = draw.integers(0, 2, rows)
    pq.write_table(pa.table(columns), path, row_group_size=row_group)


def ours(path: Path, categorical: list[str], every: int) -> int:
    encoder = Encoder("label", NUMERIC, categorical, objective="binary", classes=[0, 1])
    stream = Stream(path, encoder=encoder, every=every)
    return sum(len(increment.labelled) for increment in stream.increments())


def peer(path: Path, categorical: list[str]) -> int:
    table = pq.read_table(path, columns=[*NUMERIC, *categorical, "label"])
    for name in [*NUMERIC, "label"]:
        table[name].to_numpy()
    for name in categorical:
        for chunk in table[name].dictionary_encode().chunks:
            chunk.indices.to_numpy()
    return len(table)


def interleaved(runs: dict[str, Callable[[], int]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taking turns, so that a busy moment of the machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            if repeat:  # the first round fills caches
                seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(arguments.threads)
    results = []
    print(f"{'file':28}{'columns':24}{'ours, rows/s':>16}{'pyarrow, rows/s':>18}{'ratio':>8}   target {TARGET}")
    with tempfile.TemporaryDirectory() as folder:
        for layout, row_group in LAYOUTS.items():
            path = Path(folder, "rows.parquet")
            write(path, arguments.rows, row_group)
            for case, categorical in CASES.items():
                median = interleaved(
                    {
                        "ours": lambda names=categorical, path=path: ours(path, names, arguments.every),  # type: ignore[misc]
                        "pyarrow": lambda names=categorical, path=path: peer(path, names),  # type: ignore[misc]
                    },
                    arguments.repeats,
                )
                rates = {name: arguments.rows / seconds for name, seconds in median.items()}
                ratio = rates["ours"] / rates["pyarrow"]
                print(f"{layout:28}{case:24}{rates['ours']:16,.0f}{rates['pyarrow']:18,.0f}{ratio:8.2f}")
                results.append({"file": layout, "columns": case, "rows_per_second": rates, "ratio": ratio})
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "rows": arguments.rows,
        "every": arguments.every,
        "threads": arguments.threads,
        "target": TARGET,
        "results": results,
    }
    arguments.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
