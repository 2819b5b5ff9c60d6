"""Cost of reading for each of R replicas: CPU seconds of a whole stream if each reads everything, and if they take
turns.

    python -m benchmarks.read_once

Replicas are processes that go through the increments of a stream in step, as on a cluster, and learn nothing. The
streams are the flights (a file a day, rates on many keys), and files of ten numbers and four categories, and of 784
pixels, in row groups of 65,536 rows. Replicas and ways are interleaved. The table holds medians.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.ingest import CATEGORICAL, NUMERIC, write
from cluster._peer_transfer import PeerTurns
from cluster._rendezvous import Rendezvous
from incr_core.data.encoding import Encoder
from incr_core.data.timeline import Blocks, Stream
from incr_core.job import Job

RESULTS = Path(__file__).parent / "results" / "read_once.json"
GROUP = 65_536


def pixels(path: Path, rows: int) -> None:
    """A file of images as lists of bytes, and their classes."""
    draw = np.random.default_rng(0)
    with pq.ParquetWriter(path, pa.schema([("pixels", pa.list_(pa.uint8(), 784)), ("label", pa.int64())])) as file:
        for start in range(0, rows, GROUP):
            count = min(GROUP, rows - start)
            flat = pa.array(draw.integers(0, 255, count * 784, np.uint8))
            images = pa.FixedSizeListArray.from_arrays(flat, 784)
            file.write_table(pa.table({"pixels": images, "label": draw.integers(0, 10, count)}), row_group_size=GROUP)


def stream(name: str, path: str, part: Blocks | None, turns: PeerTurns | None) -> Stream:
    """One replica's part of one of the streams."""
    if name == "flights":
        return Job.read(path).data(part, turns=turns)
    if name == "pixels":
        encoder = Encoder("label", ["pixels"], [], objective="multiclass", classes=list(range(10)))
        return Stream(path, encoder=encoder, every=4096, partition=part, turns=turns)
    encoder = Encoder("label", NUMERIC, CATEGORICAL, objective="binary", classes=[0, 1], widths={})
    return Stream(path, encoder=encoder, every=10_000, partition=part, turns=turns)


def replica(
    index: int, count: int, in_turns: bool, name: str, path: str, meeting: Rendezvous, step: Any, answer: Any
) -> None:
    """Go through the stream, and answer with the CPU seconds and the rows."""
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    turns = PeerTurns(index, count, "127.0.0.1", meeting.join, 30.0) if in_turns and count > 1 else None
    part = Blocks(index, count, 128) if count > 1 else None
    step.wait()
    begun, began, rows = time.process_time(), time.perf_counter(), 0
    for increment in stream(name, path, part, turns).increments():
        rows += len(increment.arriving)
        step.wait()
    answer.put((time.process_time() - begun, time.perf_counter() - began, rows))
    step.wait()


def measured(count: int, in_turns: bool, name: str, path: str) -> dict[str, float]:
    """The most CPU seconds of a replica, their sum, and the seconds that all of it takes."""
    spawn = multiprocessing.get_context("spawn")
    meeting, store = Rendezvous.open("127.0.0.1", timedelta(seconds=60))
    step, answer = spawn.Barrier(count), spawn.Queue()
    workers = [
        spawn.Process(target=replica, args=(index, count, in_turns, name, path, meeting, step, answer))
        for index in range(count)
    ]
    for worker in workers:
        worker.start()
    found = [answer.get() for _ in workers]
    for worker in workers:
        worker.join()
    del store
    cpu = [seconds for seconds, _, _ in found]
    return {
        "cpu_of_one": max(cpu),
        "cpu_of_all": sum(cpu),
        "seconds": max(seconds for _, seconds, _ in found),
        "rows": sum(rows for _, _, rows in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--flights", default="examples/flights/job.toml", help="its job file (%(default)s)")
    parser.add_argument("--only", nargs="*", default=["flights", "columns", "pixels"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results = []
    print(f"{'stream':10}{'replicas':>9}  {'way':10}{'CPU s of one':>14}{'CPU s of all':>14}{'seconds':>10}")
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            "flights": arguments.flights,
            "columns": f"{folder}/rows.parquet",
            "pixels": f"{folder}/pixels.parquet",
        }
        if "columns" in arguments.only:
            write(Path(paths["columns"]), arguments.rows, GROUP)
        if "pixels" in arguments.only:
            pixels(Path(paths["pixels"]), arguments.rows // 4)
        for name in arguments.only:
            runs: dict[tuple[int, bool], list[dict[str, float]]] = {}
            for _ in range(arguments.repeats):
                for count in arguments.replicas:
                    for in_turns in (False, True) if count > 1 else (False,):
                        runs.setdefault((count, in_turns), []).append(measured(count, in_turns, name, paths[name]))
            for (count, in_turns), found in runs.items():
                median = {key: statistics.median(one[key] for one in found) for key in found[0]}
                way = "in turns" if in_turns else "all of it"
                print(
                    f"{name:10}{count:9}  {way:10}{median['cpu_of_one']:14.2f}{median['cpu_of_all']:14.2f}"
                    f"{median['seconds']:10.2f}",
                    flush=True,
                )
                results.append({"stream": name, "replicas": count, "in_turns": in_turns, **median})
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"rows": arguments.rows, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
