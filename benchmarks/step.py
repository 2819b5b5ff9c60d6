"""The learner's step: rows per second of `Learner` over a hand-written loop of the same maths, and over Avalanche 0.6.

    python benchmarks/step.py

All learn the same rows with one thread, in turns; the table holds medians over repeats, of rows per second of CPU time
(which a busy machine disturbs less than the clock on the wall) and of the ratios within a repeat. Before anything is
timed, the hand-written loop and the learner must have learned the same weights to the bit.

Avalanche takes part where it is installed: as it comes, with its metrics and its progress bar (thrown away), and lean,
with the mean loss alone, as ours. It asks for torchvision and solvers that do not install beside this torch,
and uses none of them here; so stand-ins are good enough:

    pip install --no-deps avalanche-lib==0.6.0 && pip install psutil tqdm dill tensorboard
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from incr_core.batch import Batch
from incr_core.learner import Learner, OptimizerFactory
from incr_core.objective import Multiclass
from incr_core.strategies import Replay

RESULTS = Path(__file__).parent / "results" / "step.json"
CAPACITY = 500
ARMS = ("hand", "ours", "avalanche", "lean")
OVER_HAND, OVER_AVALANCHE = 0.95, 1.8
OPTIMIZERS: dict[str, OptimizerFactory] = {
    "sgd": partial(torch.optim.SGD, lr=0.01),
    "adam": partial(torch.optim.Adam, lr=0.001, fused=True),
}

Run = Callable[[], object]


def network() -> nn.Sequential:
    """The same weights at every call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def some_rows(count: int) -> tuple[Tensor, Tensor]:
    """Random pictures of ten classes."""
    torch.manual_seed(1)
    return torch.rand(count, 784), torch.randint(10, (count,))


class Reservoir:
    """Algorithm R as one would write it for these two columns."""

    def __init__(self) -> None:
        self.x, self.y = torch.zeros(CAPACITY, 784), torch.zeros(CAPACITY, dtype=torch.int64)
        self.seen = 0

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows drawn uniformly, from a small memory without replacement."""
        held = min(self.seen, CAPACITY)
        if held > 16 * count:
            index = torch.randint(held, (count,), generator=generator)
        else:  # none twice before all were drawn once
            turns = [torch.randperm(held, generator=generator) for _ in range(-(-count // held))]
            index = torch.cat(turns)[:count]
        return self.x[index], self.y[index]

    def insert(self, x: Tensor, y: Tensor, generator: torch.Generator) -> None:
        """Show it new rows."""
        number = torch.arange(self.seen, self.seen + len(x))
        self.seen += len(x)
        slots = number
        if self.seen > CAPACITY:
            drawn = (torch.rand(len(x), generator=generator, dtype=torch.float64) * (number + 1)).long()
            slots = torch.where(number < CAPACITY, number, drawn)
        kept = (slots < CAPACITY).nonzero().flatten()
        self.x[slots[kept]], self.y[slots[kept]] = x[kept], y[kept]


def by_hand(x: Tensor, y: Tensor, optimizer: OptimizerFactory, size: int, replay: bool) -> tuple[Run, nn.Module]:
    """The loop that one writes."""
    model = network()
    descent = optimizer(model.parameters())
    order, draws = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    memory = Reservoir()

    def run() -> float:
        model.train()
        index = torch.randperm(len(x), generator=order)
        total = torch.zeros(())
        for new_x, new_y in zip(torch.split(x[index], size), torch.split(y[index], size), strict=True):
            mixed_x, mixed_y = new_x, new_y
            if replay and memory.seen:
                old_x, old_y = memory.sample(len(new_x), draws)
                mixed_x, mixed_y = torch.cat([new_x, old_x]), torch.cat([new_y, old_y])
            loss = F.cross_entropy(model(mixed_x), mixed_y)
            descent.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            descent.step()
            total += loss.detach() * len(new_x)
            if replay:
                memory.insert(new_x, new_y, draws)
        return float(total)

    return run, model


def ours(x: Tensor, y: Tensor, optimizer: OptimizerFactory, size: int, replay: bool) -> tuple[Run, nn.Module]:
    """The learner."""
    strategies = [Replay(capacity=CAPACITY, ratio=1.0)] if replay else []
    learner = Learner(network(), Multiclass(10), optimizer, strategies, batch_size=size)
    return lambda: learner.learn(Batch(x, y)), learner.model


def avalanche(x: Tensor, y: Tensor, optimizer: OptimizerFactory, size: int, replay: bool, lean: bool) -> Run:
    """Naive, or with its replay plugin: as it comes, or lean, keeping only the mean loss as the others do."""
    from avalanche.benchmarks.scenarios.dataset_scenario import benchmark_from_datasets
    from avalanche.benchmarks.utils.utils import as_taskaware_classification_dataset
    from avalanche.evaluation.metrics import loss_metrics
    from avalanche.logging import BaseLogger
    from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
    from avalanche.training.plugins.evaluation import default_evaluator
    from avalanche.training.supervised import Naive

    data = as_taskaware_classification_dataset(LabelledRows(x, y))
    experience = benchmark_from_datasets(train=[data]).train_stream[0]
    model, nowhere = network(), open(os.devnull, "w")  # noqa: SIM115 -- until the process ends
    with redirect_stdout(nowhere):  # its logger keeps the stdout it was made with
        evaluator = EvaluationPlugin(loss_metrics(epoch=True), loggers=[BaseLogger()]) if lean else default_evaluator()
    naive = Naive(
        model=model,
        optimizer=optimizer(model.parameters()),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=size,
        train_epochs=1,
        plugins=[ReplayPlugin(mem_size=CAPACITY)] if replay else [],
        evaluator=evaluator,
    )

    def run() -> None:
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            naive.train(experience)

    return run


class LabelledRows(TensorDataset):
    """Rows in the form Avalanche takes, which knows its labels and tasks beforehand."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__(x, y)
        self.targets = y.tolist()
        self.targets_task_labels = [0] * len(y)


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules that have every name, for those that Avalanche imports and does not use here."""

    names = ("torchvision", "gdown", "quadprog", "qpsolvers", "wandb", "pytorchcv", "GPUtil")

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        """A stand-in for these, and nothing for others."""
        if name.split(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """A module whose every name is a class that does nothing."""

        def anything(name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {"__init__": lambda *_, **__: None})

        module = ModuleType(spec.name)
        module.__path__ = []
        module.__getattr__ = anything  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def avalanche_version() -> str | None:
    """Its version, or None and a line that says why it takes no part."""
    sys.meta_path.append(StandIns())  # last: what is installed comes first
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import avalanche as library
            import avalanche.training.supervised
    except ImportError as missing:
        print(f"avalanche takes no part: {missing} (see the top of this file)\n")
        return None
    return str(library.__version__)


def rates(runs: dict[str, Run], rows: int, repeats: int) -> dict[str, list[float]]:
    """Rows per second of CPU time of each run, in turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats):
        # Every other repeat the other way round, so that nobody always runs behind the same neighbour.
        for name in list(runs)[:: 1 if repeat % 2 else -1]:
            begun = time.process_time()
            runs[name]()
            found[name].append(rows / (time.process_time() - begun))
    return found


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios within a repeat."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # or moments that fade away make fused Adam four times slower, for everybody
    x, y = some_rows(arguments.rows)
    version = avalanche_version()
    print(f"MLP 784-256-256-10, {arguments.rows} rows a run, {arguments.repeats} repeats, 1 thread")
    print(f"{'':23}{'rows per second of CPU':>44}   {'ours over':>8}")
    print(
        f"{'':23}{'by hand':>11}{'ours':>11}{'avalanche':>11}{'lean':>11}   {'by hand':>8}{'avalanche':>11}{'lean':>11}"
    )
    cells = []
    for name, optimizer in OPTIMIZERS.items():
        for size in (10, 128):
            for replay in (False, True):
                arms = (x, y, optimizer, size, replay)
                (hand, one), (learner, two) = by_hand(*arms), ours(*arms)
                runs: dict[str, Run] = {"hand": hand, "ours": learner}
                if version:
                    runs["avalanche"] = avalanche(*arms, lean=False)
                    runs["lean"] = avalanche(*arms, lean=True)
                for run in runs.values():
                    run()  # warm up, and fill the memories
                for weight, other in zip(one.parameters(), two.parameters(), strict=True):
                    assert torch.equal(weight, other), "the hand-written loop must do the same maths"
                found = rates(runs, arguments.rows, arguments.repeats)
                cell: dict[str, Any] = {
                    "optimizer": name,
                    "batch_size": size,
                    "replay": replay,
                    "rows_per_second": {run: round(statistics.median(each)) for run, each in found.items()},
                    "over_hand": round(ratio(found["ours"], found["hand"]), 3),
                }
                told = cell["rows_per_second"]
                line = f"{name:5} batch {size:3} {'replay' if replay else '':7}"
                line += "".join(f"{told[run]:>11,}" if run in told else f"{'-':>11}" for run in ARMS)
                line += f"   {cell['over_hand']:>8.3f}"
                for peer in ARMS[2:]:
                    if peer in found:
                        cell[f"over_{peer}"] = round(ratio(found["ours"], found[peer]), 2)
                        line += f"{cell[f'over_{peer}']:>11.2f}"
                print(line, flush=True)
                cells.append(cell)
    document = {
        "model": "784-256-256-10",
        "rows": arguments.rows,
        "repeats": arguments.repeats,
        "threads": 1,
        "clock": "CPU time of the process",
        "flush_denormal": True,
        "torch": torch.__version__,
        "avalanche": version,
        "targets": {"over_hand": OVER_HAND, "over_avalanche_naive": OVER_AVALANCHE},
        "cells": cells,
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    slow = [cell for cell in cells if cell["over_hand"] < OVER_HAND]
    late = [
        cell for cell in cells if not cell["replay"] and cell.get("over_avalanche", OVER_AVALANCHE) < OVER_AVALANCHE
    ]
    print(f"\ntargets: {OVER_HAND} by hand, missed by {len(slow)} of {len(cells)}; ", end="")
    print(f"{OVER_AVALANCHE} over Avalanche Naive, missed by {len(late)}" if version else "Avalanche absent")


if __name__ == "__main__":
    main()
