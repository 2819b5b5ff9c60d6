r"""Two replicas beside one process, DDP, Ray Train and torchft; and what the cluster costs where increments are small.

    python -m benchmarks.cluster
    python -m benchmarks.cluster --parts steps --torchft /somewhere/bin/python      with torchft's arms
    python -m benchmarks.cluster --parts flights increments start --repeats 3

All arms in turns, every other repeat the other way round, one thread a process; figures are medians over repeats, of
seconds and of ratios within a repeat. What starts Ray, processes and groups is not counted, but under "start".

steps       `ROWS` rows in steps of some milliseconds (`replica_task.py`). DDP and Ray Train exchange gradients at every
            step; LocalSGD, DiLoCo and ours exchange weights every `H` steps. Peers have their rows in memory; ours read
            a Parquet file, predict each row before they learn it, and commit. Two processes apart exchange nothing:
            what they gain over one process is what two cores of this machine can give.
flights     the job of `examples/flights` over two weeks.
increments  `INCREMENTS` increments of 50 rows, of which each is committed.
start       from a Ray that is up to the first row learned.

On a slow network, as root; what is sent there arrives at 100 Mbit/s:

    unshare -n sh -c 'ip link set lo up; tc qdisc add dev lo root tbf rate 100mbit burst 128kb latency 100ms
        python -m benchmarks.cluster --parts steps --repeats 1 --out slow.json \
            --set stream.every=65536 cluster.average_every=256 cluster.wire=int8'

torchft is run by the interpreter that --torchft names (`with_torchft.py`), Ray Train where ray has it; else they are
left out by name.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import FileStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from benchmarks.replica_task import BATCH, RATE, WIDTH, H, drawn, learn, network
from cluster.session import Session
from examples.flights.prepare import main as prepare
from incr_core import run
from incr_core.job import Job

RESULTS = Path(__file__).parent / "results" / "cluster.json"
ROOT = Path(__file__).parent.parent
ROWS, INCREMENT = 65_536, 16_384
INCREMENTS = 1000
TARGETS = {
    "steps: ours, 2 replicas over ours, one process": 1.85,
    "steps: ours, 2 replicas over DDP": 1.0,
    "flights: 2 replicas over one process": 1.3,
    "increments: more milliseconds on the cluster": 5.0,
    "start: seconds to the first row learned": 6.0,
}
"""At least, of speeds; at most, of times."""

Arm = Callable[[], float]
"""Learns; returns the seconds it took."""


# -- peers -----------------------------------------------------------------------------------------------------------


def in_processes(work: Callable[..., float], size: int, *arguments: Any) -> float:
    """The seconds of the slowest of so many processes."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, context.Pool(size) as pool:
        return max(pool.starmap(work, [(rank, size, folder, *arguments) for rank in range(size)], chunksize=1))


def by_hand(rank: int, size: int, folder: str) -> float:
    """One process, or one of several that average gradients."""
    torch.set_num_threads(1)
    model: nn.Module = network()
    if size == 1:
        return learn(model, torch.optim.SGD(model.parameters(), RATE), ROWS, rank)
    store = FileStore(f"{folder}/store", size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(minutes=2))
    try:
        model = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), RATE)
        return learn(model, optimizer, ROWS // size, rank, dist.barrier)
    finally:
        dist.destroy_process_group()


def apart(rank: int, size: int, folder: str) -> float:
    """One of several processes that share the rows and exchange nothing: as fast as this machine can be."""
    torch.set_num_threads(1)
    model = network()
    return learn(model, torch.optim.SGD(model.parameters(), RATE), ROWS // size, rank)


def on_ray_train(config: Mapping[str, Any]) -> None:
    """The same, in a worker of Ray Train."""
    from ray import train
    from ray.train.torch import prepare_model

    torch.set_num_threads(1)
    model = prepare_model(network())
    rank = train.get_context().get_world_rank()
    seconds = learn(model, torch.optim.SGD(model.parameters(), RATE), ROWS // 2, rank, dist.barrier)
    Path(config["folder"], str(rank)).write_text(str(seconds))


def ray_train() -> float:
    """DDP as Ray Train sets it up."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with tempfile.TemporaryDirectory() as folder:
        trainer = TorchTrainer(
            on_ray_train,
            train_loop_config={"folder": folder},
            scaling_config=ScalingConfig(num_workers=2),
            run_config=RunConfig(storage_path=folder),
        )
        trainer.fit()
        return max(float(Path(folder, str(rank)).read_text()) for rank in range(2))


def torchft(python: str, kind: str) -> float:
    """Of torchft, by an interpreter that has it."""
    command = [python, "-m", "benchmarks.with_torchft", kind, str(ROWS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=600)
    return float(told.stdout.split()[-1])


# -- ours ------------------------------------------------------------------------------------------------------------


def ours(job: Job, engine: str) -> float:
    """Seconds of a run, from its first increment to its last commit."""
    with tempfile.TemporaryDirectory() as folder:
        return run(job, Path(folder, "run"), on=engine).summary.wall_seconds


def to_the_first_row(job: Job) -> float:
    """Seconds until one increment is learned, and the run has ended."""
    begun = time.perf_counter()
    ours(job, "cluster")
    return time.perf_counter() - begun


def job_of(path: Path, every: int, hidden: int, *settings: str) -> Job:
    """The task of `replica_task`, as a job."""
    document = {
        "name": "task",
        "root": str(ROOT),
        "stream": {"path": str(path), "every": every},
        "features": {"label": "label", "numeric": ["x"], "classes": list(range(10))},
        "model": {"factory": "benchmarks.replica_task:network", "arguments": {"hidden": hidden}},
        "learner": {"objective": "multiclass", "batch_size": BATCH, "optimizer": {"name": "sgd", "lr": RATE}},
        "cluster": {"replicas": 2, "average_every": H},
    }
    return Job.from_document(document, settings).resolved()


def written(folder: Path, rows: int) -> Path:
    """Rows of the task as a Parquet file."""
    path = folder / f"{rows}.parquet"
    x, y = drawn(rows)
    columns = {"x": pa.FixedSizeListArray.from_arrays(pa.array(x.flatten().numpy()), WIDTH), "label": y.numpy()}
    pq.write_table(pa.table(columns), path)
    return path


def arms_of(part: str, folder: Path, with_torchft: str | None, settings: Sequence[str] = ()) -> dict[str, Arm]:
    """The arms of a part, by name; settings: of our jobs in "steps"."""
    if part == "steps":
        job = job_of(written(folder, ROWS), INCREMENT, 512, *settings)
        arms: dict[str, Arm] = {
            "one process": partial(in_processes, by_hand, 1),
            "two processes apart": partial(in_processes, apart, 2),
            "DDP": partial(in_processes, by_hand, 2),
            "Ray Train": ray_train,
            "LocalSGD": partial(torchft, with_torchft or "", "localsgd"),
            "DiLoCo": partial(torchft, with_torchft or "", "diloco"),
            "ours, one process": partial(ours, job, "local"),
            "ours, 1 replica": partial(ours, job.with_settings(["cluster.replicas=1"]), "cluster"),
            "ours, 2 replicas": partial(ours, job, "cluster"),
        }
        missing = [] if with_torchft else ["LocalSGD", "DiLoCo"]
        try:
            import ray.train.torch  # noqa: F401
        except ImportError:
            missing.append("Ray Train")
        for name in missing:
            print(f"{name} is left out: it is not installed")
            del arms[name]
        return arms
    if part == "flights":
        prepare(["--out", str(folder / "flights"), "--until", "2013-01-22"])
        two_weeks = ["baselines={}", "stream.warm_start=2013-01-08", f"stream.path={folder}/flights"]
        flights = Job.read(ROOT / "examples/flights/job.toml", two_weeks)
        return {"one process": partial(ours, flights, "local"), "2 replicas": partial(ours, flights, "cluster")}
    if part == "increments":
        small = job_of(written(folder, 50 * INCREMENTS), 50, 64)
        return {"one process": partial(ours, small, "local"), "2 replicas": partial(ours, small, "cluster")}
    return {"2 replicas": partial(to_the_first_row, job_of(written(folder, 1000), 1000, 64))}


# -- figures ---------------------------------------------------------------------------------------------------------


def measured(arms: Mapping[str, Arm], repeats: int) -> dict[str, list[float]]:
    """Seconds of each arm, by repeat."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(repeats):
        for name in list(arms)[:: 1 if repeat % 2 else -1]:
            found[name].append(arms[name]())
            print(f"  {name:20}{found[name][-1]:8.2f} s", flush=True)
    return found


def speed(found: Mapping[str, Sequence[float]], one: str, other: str) -> float:
    """How much faster one arm is than another: the median of the ratios within a repeat."""
    return round(statistics.median(b / a for a, b in zip(found[one], found[other], strict=True)), 3)


def compared(part: str, found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The ratios and differences of a part."""
    if part == "steps":
        ratios = {
            f"steps: ours, 2 replicas over {name}": speed(found, "ours, 2 replicas", name)
            for name in found
            if name != "ours, 2 replicas"
        }
        return ratios | {
            "steps: two processes apart over one process": speed(found, "two processes apart", "one process")
        }
    if part == "flights":
        return {"flights: 2 replicas over one process": speed(found, "2 replicas", "one process")}
    if part == "increments":
        more = [a - b for a, b in zip(found["2 replicas"], found["one process"], strict=True)]
        return {"increments: more milliseconds on the cluster": round(1000 * statistics.median(more) / INCREMENTS, 2)}
    return {"start: seconds to the first row learned": round(statistics.median(found["2 replicas"]), 2)}


def main() -> None:
    parts = ["steps", "flights", "increments", "start"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--torchft", metavar="PYTHON", help="an interpreter that has torchft")
    parser.add_argument(
        "--set", nargs="+", default=[], dest="settings", metavar="KEY=VALUE", help="of our jobs in steps"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    document = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"seconds": {}, "compared": {}}
    # Workers, and those of Ray Train, find the benchmarks.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    session = Session("local", slots=4)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for part in arguments.parts:
                print(part)
                arms = arms_of(part, Path(folder), arguments.torchft, arguments.settings)
                found = measured(arms, arguments.repeats)
                medians = {name: round(statistics.median(seconds), 3) for name, seconds in found.items()}
                document["seconds"][part] = medians
                document["compared"] |= compared(part, found)
    finally:
        session.close()
    for name, value in document["compared"].items():
        print(f"{name:56}{value:8.2f}" + (f"   (target {TARGETS[name]})" if name in TARGETS else ""))
    document |= {"repeats": arguments.repeats, "threads": 1, "targets": TARGETS, "torch": torch.__version__}
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
