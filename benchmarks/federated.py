"""Simulated clients beside a loop by hand over the same maths: one by one, and many learned as one batch.

    python -m benchmarks.federated                     both parts; the table is kept
    python -m benchmarks.federated --parts learners    the learners alone: --parts engine, the engine on its grid
    python -m benchmarks.federated --repeats 1 --out /tmp/federated.json

Learners: one round of FedAvg over clients in this process, one thread: adopt the anchor, one pass, the mean by rows. Of
100,000 clients 1,000 are drawn; as many learners stand for those that are drawn, which keep nothing between rounds, or,
"stateless", one for all of them (`learn_stateless`). All arms learn in turns, and their means must agree to
`TOLERANCE`.

Engine: the same with everything around it, on our grid: rows from a Parquet file that all clients read, predicted
before they are learned, states and versions kept. What counts is the CPU time of all processes, once they are there;
an increment is the second, which has everybody's moments and files behind it. The loop by hand predicts and learns.

Times are CPU seconds, which a busy machine disturbs less than the clock on the wall; ratios are within a repeat.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from federated.engine import FederatedEngine
from incr_core.batch import Batch
from incr_core.job import Job
from incr_core.learner import Learner, learn_stacked, learn_stateless, why_alone
from incr_core.numerics import settle_arithmetic
from incr_core.objectives import Multiclass
from incr_core.update import Update, Weights, mean

RESULTS = Path(__file__).parent / "results" / "federated.json"
TOLERANCE = 1e-5
LR = 0.05


@dataclass(frozen=True)
class Case:
    """Clients that learn, of how many, with so many rows each; the widths of their network; rows of a step; how many
    are learned at once; and how many times as fast as by hand that is to be."""

    clients: int
    registered: int
    rows: int
    widths: Sequence[int]
    batch: int
    at_once: Sequence[int]
    target: float


CASES = {
    "100 x 600, 784-200-200-10": Case(100, 100, 600, (784, 200, 200, 10), 50, (16, 50), 1.1),
    "100 x 100, 20-64-32-2": Case(100, 100, 100, (20, 64, 32, 2), 10, (50, 100), 8.0),
    "1000 of 100000 x 20, 20-2": Case(1000, 100_000, 20, (20, 2), 20, (100, 1000), 40.0),
}


def network(widths: Sequence[int]) -> nn.Sequential:
    """The same weights at every call."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Rows:
    """The rows of all clients in one table; those of a client are consecutive."""

    def __init__(self, case: Case) -> None:
        draw, count = torch.Generator().manual_seed(1), case.registered * case.rows
        self.inputs = torch.randn(count, case.widths[0], generator=draw)
        self.targets = torch.randint(case.widths[-1], (count,), generator=draw)
        self._rows = case.rows

    def of(self, client: int) -> tuple[Tensor, Tensor]:
        """One client's."""
        own = slice(client * self._rows, (client + 1) * self._rows)
        return self.inputs[own], self.targets[own]

    def of_many(self, clients: Sequence[int]) -> tuple[Batch, Tensor]:
        """Those of several clients, one after the other, and how many each has."""
        places = (torch.tensor(clients)[:, None] * self._rows + torch.arange(self._rows)).flatten()
        return Batch(self.inputs, self.targets).take(places), torch.full((len(clients),), self._rows)


def by_hand(case: Case, rows: Rows, drawn: Sequence[int]) -> Weights:
    """A round, as one writes it: the model takes the anchor, an optimiser of its own, a pass in order, the mean."""
    model = network(case.widths)
    anchor = [weight.detach().clone() for weight in model.parameters()]
    total = [torch.zeros_like(weight) for weight in anchor]
    for client in drawn:
        inputs, targets = rows.of(client)
        with torch.no_grad():
            for weight, value in zip(model.parameters(), anchor, strict=True):
                weight.copy_(value)
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        for x, y in zip(torch.split(inputs, case.batch), torch.split(targets, case.batch), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        for value, weight in zip(total, model.parameters(), strict=True):
            value += weight.detach()
    names = [f"model.{name}" for name, _ in model.named_parameters()]
    return {name: value / len(drawn) for name, value in zip(names, total, strict=True)}


def learners(case: Case) -> list[Learner]:
    """A learner for each client that takes part."""
    make = partial(torch.optim.SGD, lr=LR)
    return [
        Learner(network(case.widths), Multiclass(case.widths[-1]), make, batch_size=case.batch, shuffle=False)
        for _ in range(case.clients)
    ]


def one_by_one(rows: Rows, drawn: Sequence[int], pool: Sequence[Learner], anchor: Weights) -> Weights:
    """A round of learners, each by itself."""
    updates: list[Update] = []
    for learner, client in zip(pool, drawn, strict=True):
        learner.adopt(anchor)
        learner.begin(Batch(*rows.of(client)))
        updates.append(learner.advance())
    return mean(updates, anchor, {})


def batched(rows: Rows, drawn: Sequence[int], pool: Sequence[Learner], anchor: Weights, at_once: int) -> Weights:
    """A round of learners, so many as one batch."""
    updates: list[Update] = []
    for start in range(0, len(drawn), at_once):
        some = pool[start : start + at_once]
        theirs = [Batch(*rows.of(client)) for client in drawn[start : start + at_once]]
        some[0].adopt(anchor)
        for learner, own in zip(some, theirs, strict=True):
            learner.begin(own)
        assert not why_alone(some[0], theirs[0])
        updates += learn_stacked(some, theirs, 1, anchor)
    return mean(updates, anchor, {})


def stateless(rows: Rows, drawn: Sequence[int], learner: Learner, anchor: Weights, at_once: int) -> Weights:
    """A round of clients that keep nothing, so many as one batch, with one learner."""
    updates: list[Update] = []
    learner.adopt(anchor)
    for start in range(0, len(drawn), at_once):
        theirs, sizes = rows.of_many(drawn[start : start + at_once])
        assert not why_alone(learner, theirs)
        updates.append(learn_stateless(learner, theirs, sizes, 1, anchor))
    return mean(updates, anchor, {})


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """The CPU seconds that some work took in this process, and what came of it."""
    begun = time.process_time()
    found = work()
    return time.process_time() - begun, found


def compare_learners(case: Case, repeats: int) -> dict[str, Any]:
    """All arms of one case, in turns."""
    rows, pool = Rows(case), learners(case)
    anchor = {name: value.clone() for name, value in pool[0].weights().items()}
    draw = torch.Generator().manual_seed(2)
    taken: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):  # the first warms up
        drawn = torch.randperm(case.registered, generator=draw)[: case.clients].sort().values.tolist()
        arms: dict[str, Callable[[], Weights]] = {
            "by hand": partial(by_hand, case, rows, drawn),
            "one by one": partial(one_by_one, rows, drawn, pool, anchor),
            **{f"{size} at once": partial(batched, rows, drawn, pool, anchor, size) for size in case.at_once},
            **{
                f"{size} at once, stateless": partial(stateless, rows, drawn, pool[0], anchor, size)
                for size in case.at_once
            },
        }
        expected: Weights = {}
        for name, arm in arms.items():
            seconds, found = timed(arm)
            expected = expected or found
            apart = max(float((found[key] - expected[key]).abs().max()) for key in expected)
            assert apart < TOLERANCE, f"{name} is {apart} apart"
            if repeat:
                taken.setdefault(name, []).append(seconds)
    hand = taken["by hand"]
    return {
        "target": case.target,
        "milliseconds": {name: round(1000 * statistics.median(each), 1) for name, each in taken.items()},
        "times_as_fast": {
            name: round(statistics.median(map(float.__truediv__, hand, each)), 2) for name, each in taken.items()
        },
    }


# -- the engine ------------------------------------------------------------------------------------------------------


def job_of(folder: Path, clients: int, rows: int, at_once: int, stateless: bool) -> Job:
    """Three increments of so many rows, dealt to so many clients of one table."""
    draw, count = np.random.default_rng(0), 3 * rows
    inputs = draw.normal(size=(count, 20)).astype(np.float32)
    names = [f"x{place}" for place in range(20)]
    table = pa.table(
        {name: inputs[:, place] for place, name in enumerate(names)}
        | {"y": (inputs[:, 0] + inputs[:, 1] > 0).astype(np.int64), "who": np.arange(count) % clients}
    )
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "rows.parquet")
    document = {
        "name": "clients",
        "stream": {"path": str(folder / "rows.parquet"), "every": rows},
        "features": {"label": "y", "numeric": names, "classes": [0, 1]},
        "model": {"hidden": [64, 32]},
        "learner": {"objective": "binary", "batch_size": 10, "epochs": 1, "optimizer": {"name": "sgd", "lr": LR}},
        "strategy": [],
        "federated": {
            "clients": f"iid:{clients}" if stateless else "who",
            "workers": 2,
            "batch_clients": at_once,
            "stateless": stateless,
        },
    }
    return Job.from_document(document).resolved()


def cpu_of_all() -> float:
    """CPU seconds of this process and of the workers below it (Linux)."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            told = (place / "stat").read_text().rpartition(")")[2].split()
            if "ray::" in (place / "cmdline").read_text():
                ticks[int(place.name)] = int(told[11]) + int(told[12])
        except OSError:  # it has just ended
            continue
        parents[int(place.name)] = int(told[1])

    def is_ours(process: int) -> bool:
        while process in parents and process != os.getpid():
            process = parents[process]
        return process == os.getpid()

    spent = sum(count for process, count in ticks.items() if is_ours(process))
    return sum(os.times()[:2]) + spent / os.sysconf("SC_CLK_TCK")


def hand_of_engine(clients: int, rows: int) -> float:
    """CPU seconds of the loop by hand: each client predicts its rows, then learns them; the mean."""
    case = Case(clients, clients, rows // clients, (20, 64, 32, 2), 10, (), 1.0)
    held, model = Rows(case), network(case.widths)

    def work() -> None:
        for client in range(clients):
            with torch.no_grad():
                model(held.of(client)[0]).softmax(1)
        by_hand(case, held, range(clients))

    timed(work)
    return timed(work)[0]


def compare_engine(clients: int, rows: int, at_once: int, stateless: bool) -> dict[str, Any]:
    """What the engine spends on opening its clients, and on an increment, beside the loop by hand."""
    phases: dict[str, float] = {}

    def spend(name: str, work: Callable[[], Any]) -> Any:
        before, begun = cpu_of_all(), time.perf_counter()
        found = work()
        phases[name] = round(cpu_of_all() - before, 2)
        phases[f"{name}, wall"] = round(time.perf_counter() - begun, 2)
        return found

    with tempfile.TemporaryDirectory() as folder:
        engine = FederatedEngine(job_of(Path(folder), clients, rows, at_once, stateless), Path(folder, "run"))
        try:
            engine.start(None)  # starts the processes, in which everything is imported
            spend("open", partial(engine._roster.start, None))
            for number in range(2):
                arrivals = spend("receive", engine.receive)
                spend("learn", partial(engine.learn, arrivals))
                spend("save", partial(engine.save, number + 1))
        finally:
            engine.close()
    hand = hand_of_engine(clients, rows)
    increment = sum(phases[name] for name in ("receive", "learn", "save"))
    return {
        "cpu_seconds": phases,
        "by_hand": round(hand, 3),
        "increment_over_hand": round(increment / hand, 2),
        "target_over_hand": 1.3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["learners", "engine"], choices=["learners", "engine"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--clients", nargs="+", type=int, default=[100, 1000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    settle_arithmetic(1)
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    found |= {"torch": torch.__version__, "threads": 1, "load": round(os.getloadavg()[0], 1)}
    if "learners" in options.parts:
        for name in options.cases:
            found.setdefault("learners", {})[name] = compare_learners(CASES[name], options.repeats)
            print(name, json.dumps(found["learners"][name], indent=1))
    if "engine" in options.parts:
        for clients in options.clients:
            for at_once, stateless in ((0, False), (50, False), (50, True)):
                name = f"{clients} clients, 10000 rows, batch_clients = {at_once}{', stateless' * stateless}"
                found.setdefault("engine", {})[name] = compare_engine(clients, 10_000, at_once, stateless)
                print(name, json.dumps(found["engine"][name], indent=1))
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
