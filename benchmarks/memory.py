"""A large reservoir: microseconds to show it a row, and to draw a batch from it.

    python -m benchmarks.memory

1,000,000 rows of 64 floats and a label, shown in batches of 1,000: while the memory fills, and as many again once it is
full, when a row stays with a probability that falls from 1 to 1/2. Then 256 rows are drawn at a time. Beside it is
algorithm R as one writes it with numpy arrays: a batch's draws at once, and row by row, which is shown fewer rows. One
thread, in turns; figures are medians over repeats, of CPU time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from incr_core.memories import Reservoir

RESULTS = Path(__file__).parent / "results" / "memory.json"
CAPACITY, WIDTH, BATCH, DRAWN = 1_000_000, 64, 1000, 256
ONE_BY_ONE = 20_000
"""Rows that the loop over rows is shown, of each kind."""

TARGETS = {"filling": 1.0, "full": 1.0, "sample": 100.0}
"""Microseconds: of a row, of a row, and of a batch."""


class Shown(Protocol):
    """A memory as it is measured."""

    def insert(self, x: Tensor, y: Tensor) -> None:
        """Show it a batch."""

    def sample(self, count: int) -> object:
        """Draw rows."""


class Ours:
    """The library's memory."""

    def __init__(self) -> None:
        self.memory, self.generator = Reservoir(CAPACITY), torch.Generator().manual_seed(0)

    def insert(self, x: Tensor, y: Tensor) -> None:
        """Show it a batch."""
        self.memory.insert({"inputs": x, "targets": y}, self.generator)

    def sample(self, count: int) -> object:
        """Draw rows."""
        return self.memory.sample(count, self.generator)


class WithNumpy:
    """Algorithm R with a batch's draws at once: of rows that chose one slot, numpy keeps the last."""

    def __init__(self) -> None:
        self.x = np.empty((CAPACITY, WIDTH), dtype=np.float32)
        self.y = np.empty(CAPACITY, dtype=np.float32)
        self.seen, self.draw = 0, np.random.default_rng(0)

    def insert(self, x: Tensor, y: Tensor) -> None:
        """Show it a batch."""
        number = np.arange(self.seen, self.seen + len(x))
        slots = np.where(number < CAPACITY, number, self.draw.integers(0, number + 1))
        stay = slots < CAPACITY
        self.x[slots[stay]], self.y[slots[stay]] = x.numpy()[stay], y.numpy()[stay]
        self.seen += len(x)

    def sample(self, count: int) -> object:
        """Draw rows."""
        index = self.draw.integers(0, min(self.seen, CAPACITY), count)
        return self.x[index], self.y[index]


class RowByRow(WithNumpy):
    """Algorithm R without further thought."""

    def insert(self, x: Tensor, y: Tensor) -> None:
        """Show it a batch."""
        for row, label in zip(x.numpy(), y.numpy(), strict=True):
            slot = self.seen if self.seen < CAPACITY else int(self.draw.integers(0, self.seen + 1))
            if slot < CAPACITY:
                self.x[slot], self.y[slot] = row, label
            self.seen += 1


def filled(memory: Shown, x: Tensor, y: Tensor, rows: int) -> float:
    """Microseconds a row."""
    pieces = list(zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True))
    begun = time.process_time()
    for number in range(rows // BATCH):
        memory.insert(*pieces[number % len(pieces)])
    return (time.process_time() - begun) / rows * 1e6


def measure(kind: type[Ours] | type[WithNumpy], x: Tensor, y: Tensor) -> dict[str, float]:
    """Microseconds: of a row while it fills, of a row when it is full, and of a sample."""
    memory = kind()
    rows = ONE_BY_ONE if kind is RowByRow else CAPACITY
    found = {"filling": filled(memory, x, y, rows)}
    if isinstance(memory, RowByRow):
        memory.seen = CAPACITY
    found["full"] = filled(memory, x, y, rows)
    begun = time.process_time()
    for _ in range(1000):
        memory.sample(DRAWN)
    return {**found, "sample": (time.process_time() - begun) / 1000 * 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(50 * BATCH, WIDTH, generator=draw), torch.rand(50 * BATCH, generator=draw)
    kinds: dict[str, type[Ours] | type[WithNumpy]] = {"ours": Ours, "numpy, a batch": WithNumpy, "row by row": RowByRow}
    each: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for _ in range(arguments.repeats):
        for name, kind in kinds.items():
            each[name].append(measure(kind, x, y))
    found = {
        name: {figure: round(statistics.median(one[figure] for one in runs), 3) for figure in TARGETS}
        for name, runs in each.items()
    }
    print(f"{'us of CPU':18}" + "".join(f"{figure:>12}" for figure in TARGETS))
    for name, figures in found.items():
        print(f"{name:18}" + "".join(f"{value:12.3f}" for value in figures.values()))
    print(f"{'target':18}" + "".join(f"{value:12.0f}" for value in TARGETS.values()))
    document = {
        "rows": CAPACITY,
        "floats": WIDTH,
        "batch": BATCH,
        "drawn": DRAWN,
        "microseconds": found,
        "targets": TARGETS,
        "repeats": arguments.repeats,
        "threads": 1,
    }
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
