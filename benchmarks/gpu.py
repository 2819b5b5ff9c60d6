"""What a GPU makes of it: the step over a loop by hand, recorded as graphs and not, and the rest of a run there.

    python -m benchmarks.gpu                         all of it, in five minutes
    python -m benchmarks.gpu --only step replay      no file is written

Arms of a table run in turns in one process; figures are medians over repeats, of milliseconds on the wall until the GPU
is done, and ratios are of times within a repeat. Needs PyTorch and pyarrow, and for `flights` the files that
`examples/flights/prepare.py` writes; workers are plain processes. What fails is told, and the rest goes on.

launch     one kernel: what each costs Python
step       one optimiser step: by hand, by hand and recorded, ours, ours and recorded
replay     the same with as many remembered rows as new ones, from memory on the device and on the host
shard      FSDP of one shard over the same model unsharded
clients    a round of fifty small clients, one by one and learned as one batch
moving     rows to the device: as they lie, and by way of pinned memory
exchange   25 million float32 of two processes on one GPU: ours over gloo, gloo's all_reduce, and ours on the CPU
flights    January and February of `examples/flights`, end to end
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]  # public, but not re-exported
from torch.nn import functional as F

from benchmarks.exchange import SHAPES, average, drawn
from cluster import _process_groups as groups
from cluster._exchange import ReplicaExchange
from cluster._rank import Rank
from incr_core.batch import Batch
from incr_core.learner import Learner, OptimizerFactory, learn_stacked
from incr_core.numerics import settle_arithmetic
from incr_core.objectives import Multiclass
from incr_core.strategies import Replay
from incr_core.update import Weights

RESULTS = Path(__file__).parent / "results" / "gpu.json"
FLIGHTS = Path(__file__).parent.parent / "examples" / "flights"
OPTIMIZERS: dict[str, OptimizerFactory] = {
    "sgd": partial(torch.optim.SGD, lr=0.01, fused=True),
    "adam": partial(torch.optim.Adam, lr=0.001, fused=True),
}
MODELS = {"784-256-256-10": [256, 256], "784-2048-2048-2048-10": [2048, 2048, 2048]}
STEPS = {10: 100, 128: 100, 4096: 20}
MEMORY = 5000

Run = Callable[[], object]


def network(hidden: Sequence[int], device: str) -> nn.Module:
    torch.manual_seed(0)
    widths = [784, *hidden]
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10)).to(device)


def some_rows(count: int, device: str) -> Batch:
    draw = torch.Generator().manual_seed(1)
    return Batch(torch.rand(count, 784, generator=draw), torch.randint(10, (count,), generator=draw)).to(device)


def settled(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def in_turns(arms: dict[str, Run], repeats: int, per: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of each arm for one of `per`, by repeat; each runs twice before."""
    for run in [*arms.values()] * 2:
        run()
    found: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(repeats):
        for name in list(arms)[:: 1 if repeat % 2 else -1]:
            settled(device)
            begun = time.perf_counter()
            arms[name]()
            settled(device)
            found[name].append((time.perf_counter() - begun) * 1e3 / per)
    return found


def table_of(found: dict[str, list[float]], over: str) -> dict[str, Any]:
    """Medians, and ratios to one arm within a repeat."""
    return {
        "ms": {name: round(statistics.median(each), 4) for name, each in found.items()},
        f"over {over}": {
            name: round(statistics.median(a / b for a, b in zip(each, found[over], strict=True)), 3)
            for name, each in found.items()
            if name != over
        },
    }


class ByHand:
    """The loop that one writes by hand: rows on the device, a pass in a new order, the losses summed there.

    precision: of its forward. memory: remembered rows beside the new ones, and where they are drawn from.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerFactory,
        size: int,
        precision: str = "float32",
        memory: Batch | None = None,
    ) -> None:
        self.model, self.size, self.memory = model, size, memory
        self.descent = optimizer(model.parameters())
        self.device = next(model.parameters()).device
        self.kind = None if precision == "float32" else torch.bfloat16
        self.order = torch.Generator().manual_seed(0)
        self.draws = torch.Generator(self.device if memory is None else memory.targets.device).manual_seed(0)

    def batches(self, rows: Batch) -> list[Batch]:
        """One pass in a new order."""
        return rows.take(torch.randperm(len(rows), generator=self.order).to(self.device)).split(self.size)

    def beside(self, batch: Batch) -> Batch:
        """The batch with as many remembered rows."""
        if self.memory is None:
            return batch
        where = self.memory.targets.device
        index = torch.randint(len(self.memory), (len(batch),), generator=self.draws, device=where)
        old = self.memory.take(index).to(self.device)
        assert isinstance(batch.inputs, Tensor)
        assert isinstance(old.inputs, Tensor)
        return Batch(torch.cat([batch.inputs, old.inputs]), torch.cat([batch.targets, old.targets]))

    def step(self, batch: Batch) -> Tensor:
        """One step; returns its loss."""
        if self.kind is None:
            loss = F.cross_entropy(self.model(batch.inputs), batch.targets)
        else:
            with torch.autocast("cuda", self.kind):
                loss = F.cross_entropy(self.model(batch.inputs), batch.targets)
        self.descent.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.descent.step()
        return loss.detach()

    def learn(self, rows: Batch) -> float:
        """One increment; returns the sum of the rows' losses."""
        total = torch.zeros((), device=self.device)
        for batch in self.batches(rows):
            total += self.step(self.beside(batch)) * len(batch)
        return float(total)


class Recorded(ByHand):
    """The same, its step recorded as a CUDA graph."""

    graph: torch.cuda.CUDAGraph | None = None

    def learn(self, rows: Batch) -> float:
        """One increment; returns the sum of the rows' losses."""
        total = torch.zeros((), device=self.device)
        for batch in self.batches(rows):
            mixed = self.beside(batch)
            if self.graph is None:
                self.record(mixed)
            self.held.inputs.copy_(mixed.inputs)  # type: ignore[union-attr,arg-type]
            self.held.targets.copy_(mixed.targets)
            self.graph.replay()  # type: ignore[union-attr]
            total += self.loss * len(batch)
        return float(total)

    def record(self, batch: Batch) -> None:
        """Record the step of batches like this one, after three steps of it."""
        self.held = batch.map(torch.clone)
        for _ in range(3):
            self.step(self.held)
        for group in self.descent.param_groups:
            if "capturable" in group:
                group["capturable"] = True
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = self.step(self.held)


def ours(hidden: Sequence[int], optimizer: OptimizerFactory, size: int, device: str, **settings: Any) -> Learner:
    return Learner(network(hidden, device), Multiclass(10), optimizer, batch_size=size, **settings)


def step(repeats: int, device: str) -> list[dict[str, Any]]:
    cells = []
    cases = [(m, o, s, "float32") for m in MODELS for o in OPTIMIZERS for s in STEPS]
    cases += [("784-2048-2048-2048-10", "adam", size, "bfloat16") for size in STEPS]
    for model, name, size, precision in cases:
        hidden, make, rows = MODELS[model], OPTIMIZERS[name], some_rows(size * STEPS[size], device)
        settings: dict[str, Any] = {"precision": precision}
        eager, graphed = (ours(hidden, make, size, device, graphs=graphs, **settings) for graphs in (False, True))
        arms: dict[str, Run] = {
            "by hand": partial(ByHand(network(hidden, device), make, size, precision).learn, rows),
            "ours": partial(eager.learn, rows),
            "ours recorded": partial(graphed.learn, rows),
        }
        if device == "cuda":
            arms["by hand recorded"] = partial(Recorded(network(hidden, device), make, size, precision).learn, rows)
        cell: dict[str, Any] = {"model": model, "optimizer": name, "batch": size, "precision": precision}
        cell |= table_of(in_turns(arms, repeats, STEPS[size], device), "by hand")
        if model == next(iter(MODELS)) and device == "cuda" and name == "sgd" and size < 1000:
            cpu, there = ours(hidden, make, size, "cpu"), rows.to("cpu")
            cell["ms"]["ours on one CPU thread"] = round(
                statistics.median(in_turns({"cpu": partial(cpu.learn, there)}, 2, STEPS[size], "cpu")["cpu"]), 4
            )
        if size == 128 and device == "cuda":
            cell["ms"]["by hand, bits not settled"] = round(unsettled(arms["by hand"], repeats, STEPS[size]), 4)
        cell["recorded"] = graphed.graphs.recorded if graphed.graphs else graphed.why_eager
        cells.append(cell)
        print(f"{model:22} {name:5} {size:5} {precision:9} {cell['ms']}", flush=True)
    return cells


def unsettled(run: Run, repeats: int, per: int) -> float:
    """What an arm takes where sums may come in any order."""
    torch.use_deterministic_algorithms(False)
    try:
        return statistics.median(in_turns({"": run}, repeats, per, "cuda")[""])
    finally:
        settle_arithmetic(1, "cuda")


def launch(repeats: int, device: str) -> list[dict[str, Any]]:
    """Microseconds for Python to ask for a kernel that does nothing worth it."""
    one = torch.zeros(1, device=device)

    def asked() -> None:
        for _ in range(1000):
            one.add_(1.0)

    found = in_turns({"launch": asked}, repeats, 1, device)
    print(f"launch {statistics.median(found['launch']):.2f} us", flush=True)
    return [{"us": round(statistics.median(found["launch"]), 2)}]


def replay(repeats: int, device: str) -> list[dict[str, Any]]:
    cells = []
    for size in STEPS:
        model, make, rows = MODELS["784-256-256-10"], OPTIMIZERS["sgd"], some_rows(size * STEPS[size], device)
        held = some_rows(MEMORY, "cpu")
        arms: dict[str, Run] = {
            "by hand": partial(ByHand(network(model, device), make, size, memory=held.to(device)).learn, rows),
            "by hand, memory on the host": partial(ByHand(network(model, device), make, size, memory=held).learn, rows),
        }
        for graphs in (False, True):
            learner = Learner(
                network(model, device), Multiclass(10), make, [Replay(capacity=MEMORY)], batch_size=size, graphs=graphs
            )
            learner.learn(some_rows(4 * MEMORY, device))
            arms["ours recorded" if graphs else "ours"] = partial(learner.learn, rows)
        cell = {"batch": size, "remembered": size, "memory": MEMORY}
        cell |= table_of(in_turns(arms, repeats, STEPS[size], device), "by hand")
        cells.append(cell)
        print(f"replay {size:5} {cell['ms']}", flush=True)
    return cells


def shard(repeats: int, device: str) -> list[dict[str, Any]]:
    place = Rank(0, 1, 0, 1)
    groups.inside_replica(place, HashStore(), 1, device, timedelta(minutes=2))
    cells = []
    try:
        for model, hidden in MODELS.items():
            rows, optimizer = some_rows(128 * 100, device), partial(torch.optim.SGD, lr=0.01)
            plain = Learner(network(hidden, device), Multiclass(10), optimizer, batch_size=128)
            made = groups.shard_model(network(hidden, device), place, device)
            sharded = Learner(made, Multiclass(10), optimizer, batch_size=128)
            arms: dict[str, Run] = {"unsharded": partial(plain.learn, rows), "one shard": partial(sharded.learn, rows)}
            cells.append({"model": model, "batch": 128} | table_of(in_turns(arms, repeats, 100, device), "unsharded"))
            print(f"shard {model} {cells[-1]['ms']}", flush=True)
    finally:
        dist.destroy_process_group()
    return cells


def clients(repeats: int, device: str) -> list[dict[str, Any]]:
    """A round of fifty clients of 100 rows, in batches of 10."""
    draw = torch.Generator().manual_seed(1)
    count = 50
    rows = [Batch(torch.randn(100, 20, generator=draw), torch.randint(2, (100,), generator=draw)) for _ in range(count)]

    def learners(where: str) -> list[Learner]:
        made = []
        for seed in range(count):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
            made.append(Learner(model.to(where), Multiclass(2), OPTIMIZERS["sgd"], batch_size=10, seed=seed))
        return made

    def alone(them: list[Learner], anchor: Weights) -> None:
        for one, own in zip(them, rows, strict=True):
            one.adopt(anchor)
            one.begin(own)
            one.advance()

    def together(them: list[Learner], anchor: Weights, size: int) -> None:
        for start in range(0, count, size):
            group, own = them[start : start + size], rows[start : start + size]
            group[0].adopt(anchor)
            for one, each in zip(group, own, strict=True):
                one.begin(each)
            learn_stacked(group, own, 1, anchor)

    arms: dict[str, Run] = {}
    for where in dict.fromkeys((device, "cpu")):
        them = learners(where)
        anchor = {name: value.clone() for name, value in them[0].weights().items()}
        arms[f"{where}, one by one"] = partial(alone, them, anchor)
        for size in (10, 50):
            arms[f"{where}, {size} at once"] = partial(together, learners(where), anchor, size)
    cell = {"clients": count, "rows": 100, "batch": 10} | table_of(
        in_turns(arms, repeats, 1, device), f"{device}, one by one"
    )
    print(f"clients {cell['ms']}", flush=True)
    return [cell]


def moving(repeats: int, device: str) -> list[dict[str, Any]]:
    """Until the call returns, and until the rows are there."""
    cells = []
    for count in (50, 5_000, 100_000):
        rows = some_rows(count, "cpu")
        ways: dict[str, Callable[[Batch], Batch]] = {
            "as they lie": lambda batch: batch.to(device),
            "pinned first": lambda batch: batch.map(lambda tensor: tensor.pin_memory().to(device, non_blocking=True)),
        }
        found: dict[str, list[float]] = {f"{name}, {until}": [] for name in ways for until in ("returned", "there")}
        for repeat in range(repeats + 2):
            for name, move in ways.items():
                settled(device)
                begun = time.perf_counter()
                kept = move(rows)
                returned = time.perf_counter() - begun
                settled(device)
                if repeat > 1:  # memory was pinned before
                    found[f"{name}, returned"].append(returned * 1e3)
                    found[f"{name}, there"].append((time.perf_counter() - begun) * 1e3)
                del kept
        cells.append({"rows": count, "MB": round(rows.nbytes / 1e6, 1)} | table_of(found, "as they lie, there"))
        print(f"moving {count} {cells[-1]['ms']}", flush=True)
    return cells


def replica(rank: int, port: int, repeats: int, device: str, results: Any) -> None:
    """One of two processes that exchange."""
    settle_arithmetic(1, device)
    store = TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
    group = groups.between_replicas(Rank(rank, 2, 0, 1), store, 1, device, timedelta(minutes=2))
    exchanges = {place: ReplicaExchange(group, rank, 2) for place in {device, "cpu"}}
    weights = {place: {name: value.to(place) for name, value in drawn(rank).items()} for place in exchanges}
    flat = torch.cat([value.flatten() for value in weights[device].values()])
    arms: dict[str, Run] = {
        "gloo's all_reduce": lambda: group.allreduce([flat]).wait(),
        "ours": lambda: average(exchanges[device], weights[device]),
        "ours on the CPU": lambda: average(exchanges["cpu"], weights["cpu"]),
    }
    found = in_turns(arms, repeats, 1, device)
    results.put((rank, type(group).__name__, found))


def exchange(repeats: int, device: str) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    both = [context.Process(target=replica, args=(rank, store.port, repeats, device, results)) for rank in range(2)]
    for one in both:
        one.start()
    try:
        told = sorted(results.get(timeout=120) for _ in both)
    finally:
        for one in both:
            one.join(10)
            one.kill()
    found = {
        name: [max(a, b) for a, b in zip(each, told[1][2][name], strict=True)] for name, each in told[0][2].items()
    }
    numbers = sum(Tensor.numel(torch.empty(shape, device="meta")) for shape in SHAPES)
    cell = {"numbers": numbers, "tensors": len(SHAPES), "group": told[0][1]} | table_of(found, "gloo's all_reduce")
    print(f"exchange {cell}", flush=True)
    return [cell]


def flights(repeats: int, device: str) -> list[dict[str, Any]]:
    files = sorted((FLIGHTS / "data").glob("2013-0[12]-*.parquet"))
    if not files:
        raise FileNotFoundError("no flights here: python -m examples.flights.prepare --out examples/flights/data")
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").mkdir()
        for file in files:
            shutil.copy(file, Path(folder) / "data")
        shutil.copy(FLIGHTS / "job.toml", folder)
        arms = {"cpu": [], device: [f"learner.device={device}"]}
        arms[f"{device} recorded"] = [f"learner.device={device}", "learner.graphs=true"]
        for name, settings in arms.items():
            asked = [each for setting in settings for each in ("--set", setting)]
            out = str(Path(folder) / name)
            command = [
                sys.executable,
                "-m",
                "incr_core.commands.cli",
                "run",
                f"{folder}/job.toml",
                "--out",
                out,
                "--json",
            ]
            done = subprocess.run([*command, *asked], capture_output=True, text=True, timeout=240)
            if done.returncode:
                raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
            told = json.loads(done.stdout)
            seconds = told["wall_seconds"]
            cell = {"arm": name, "rows": told["rows_learned"], "seconds": round(seconds, 2)}
            cell |= {"rows_per_second": round(told["rows_learned"] / seconds), "auc": told["prequential"].get("auc")}
            cells.append(cell)
            print(f"flights {cell}", flush=True)
    return cells


PARTS: dict[str, Callable[[int, str], list[dict[str, Any]]]] = {
    "launch": launch,
    "step": step,
    "replay": replay,
    "shard": shard,
    "clients": clients,
    "moving": moving,
    "exchange": exchange,
    "flights": flights,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda", help="cpu: to try it out where there is none")
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name}, if nothing else is told")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: needs a CUDA device, and there is none here")
        return 0
    settle_arithmetic(1, arguments.device)
    card = torch.cuda.get_device_name() if arguments.device == "cuda" else "none"
    document: dict[str, Any] = {"card": card, "torch": torch.__version__, "repeats": arguments.repeats}
    print(card, torch.__version__, flush=True)
    usual = all(getattr(arguments, name) == parser.get_default(name) for name in vars(arguments))
    out, failed = arguments.out or (RESULTS if usual else None), False
    for name in arguments.only:
        begun = time.perf_counter()
        try:
            document[name] = PARTS[name](arguments.repeats, arguments.device)
        except Exception:  # the others go on
            failed = True
            traceback.print_exc()
        print(f"{name}: {time.perf_counter() - begun:.1f} s", flush=True)
        if out:
            out.parent.mkdir(exist_ok=True)
            out.write_text(json.dumps(document, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
