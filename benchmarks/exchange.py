"""The exchange of two replicas beside gloo's own all_reduce of as many numbers.

    python -m benchmarks.exchange

Two processes on this machine, one thread each, average 25,019,580 float32 in 30 tensors, weighted by their rows: in a
fixed order, product by product, to the bits that `update.mean` has in one place, and until every tensor holds the mean.
gloo sums one flat vector of as many numbers, in whatever order. In turns; figures are medians over repeats: of seconds
on the wall (the slower process), of CPU seconds of both processes with all their threads, of ratios within a repeat.

Memory is what the first exchange adds to a process at its peak, in multiples of the weights; most of it is kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import FileStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from cluster._exchange import ReplicaExchange
from incr_core.numerics import settle_arithmetic
from incr_core.update import Update, Weights, mean

RESULTS = Path(__file__).parent / "results" / "exchange.json"
SHAPES = [(1291, 1291), (1291,)] * 15
ROWS = (3, 5)
OVER_GLOO, MEMORY = 1.5, 1.0
"""The most time over gloo's, on the wall and of CPU; and the most memory, in multiples of the weights."""

Figures = dict[str, list[float]]


def drawn(rank: int) -> Weights:
    """What a replica has learned."""
    draw = torch.Generator().manual_seed(rank)
    return {str(number): torch.randn(shape, generator=draw) for number, shape in enumerate(SHAPES)}


def average(exchange: ReplicaExchange, weights: Weights) -> None:
    """What a worker does at the end of a round whose outer step is the mean."""
    merged, _ = exchange.mean(Update(weights, ROWS[exchange.rank]), {}, {})
    for name, mine in weights.items():
        if mine.data_ptr() != merged[name].data_ptr():
            mine.copy_(merged[name])


def memory(which: str) -> int:
    """Bytes of memory this process has ("VmRSS"), or has had at its peak since `forget_peak` ("VmHWM")."""
    found = re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "Linux tells of a process's memory"
    return int(found[1]) * 1024


def forget_peak() -> None:
    """Let the peak be what there is now."""
    Path("/proc/self/clear_refs").write_text("5")


def cpu_seconds() -> float:
    """Of this process, all its threads, in and out of the kernel."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def replica(rank: int, folder: str, repeats: int, results: Any) -> None:
    """One of the two processes; AssertionError where its mean is not that of one place, to the bit."""
    settle_arithmetic(1)
    group: Any = dist.ProcessGroupGloo(FileStore(f"{folder}/store", 2), rank, 2, timedelta(minutes=2))
    exchange, weights = ReplicaExchange(group, rank, 2), drawn(rank)
    flat = torch.cat([value.flatten() for value in weights.values()])
    expected = mean([Update(drawn(number), rows) for number, rows in enumerate(ROWS)], {}, {})
    group.barrier().wait()
    before = memory("VmRSS")
    forget_peak()
    average(exchange, weights)
    more = (memory("VmHWM") - before) / flat.nbytes
    assert all(torch.equal(weights[name], expected[name]) for name in weights), "the bits of one place"
    del expected
    arms: dict[str, Callable[[], object]] = {
        "gloo": lambda: group.allreduce([flat]).wait(),
        "ours": lambda: average(exchange, weights),
    }
    found: dict[str, Figures] = {name: {"wall": [], "cpu": []} for name in arms}
    for repeat in range(repeats):
        # Every other repeat the other way round, so that nobody always runs behind the same neighbour.
        for name in list(arms)[:: 1 if repeat % 2 else -1]:
            flat.fill_(1.0)
            group.barrier().wait()
            begun, used = time.perf_counter(), cpu_seconds()
            arms[name]()
            found[name]["wall"].append(time.perf_counter() - begun)
            found[name]["cpu"].append(cpu_seconds() - used)
    group.barrier().wait()
    results.put((rank, more, found))


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Median of the ratios within a repeat."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def measured(repeats: int) -> tuple[float, dict[str, Figures]]:
    """The more memory of the two processes; and of each arm, its times."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        both = [context.Process(target=replica, args=(rank, folder, repeats, results)) for rank in range(2)]
        for one in both:
            one.start()
        told = [results.get(timeout=600) for _ in both]
        for one in both:
            one.join()
    (_, more, first), (_, more_too, second) = sorted(told, key=lambda one: int(one[0]))
    joined: dict[str, Callable[[float, float], float]] = {"wall": max, "cpu": lambda a, b: a + b}
    times = {
        arm: {kind: list(map(join, first[arm][kind], second[arm][kind])) for kind, join in joined.items()}
        for arm in first
    }
    return max(more, more_too), times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    more, times = measured(arguments.repeats)
    numbers = sum(Tensor.numel(torch.empty(shape, device="meta")) for shape in SHAPES)
    seconds = {
        arm: {kind: round(statistics.median(each), 4) for kind, each in found.items()} for arm, found in times.items()
    }
    over = {kind: round(ratio(times["ours"][kind], times["gloo"][kind]), 2) for kind in ("wall", "cpu")}
    print(f"{numbers:,} float32 in {len(SHAPES)} tensors\n{'seconds':10}{'wall':>10}{'cpu':>10}")
    for arm, found in seconds.items():
        print(f"{arm:10}{found['wall']:10.3f}{found['cpu']:10.3f}")
    print(f"{'over gloo':10}{over['wall']:10.2f}{over['cpu']:10.2f}   (at most {OVER_GLOO})")
    print(f"memory: {more:.2f} times the weights (at most {MEMORY})")
    document = {
        "numbers": numbers,
        "tensors": len(SHAPES),
        "processes": 2,
        "threads": 1,
        "repeats": arguments.repeats,
        "seconds": seconds,
        "over_gloo": over,
        "target_over_gloo": OVER_GLOO,
        "memory_over_weights": round(more, 2),
        "target_memory": MEMORY,
        "torch": torch.__version__,
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
