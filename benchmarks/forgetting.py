"""How much each strategy forgets, on Fashion-MNIST.

    python -m benchmarks.forgetting                                         every run not made yet, and the tables
    python -m benchmarks.forgetting --methods er derpp --buffers 200 --permuted --seeds 0 1
    python -m benchmarks.forgetting --validate --seeds 100 101              on rows held out of training; not kept

Protocol A (Mammoth's seq-MNIST, on Fashion-MNIST): five increments of two classes, in label order; MLP
784-100-100-10; SGD, batches of 10, one pass. Class-incremental accuracy is that of the argmax over all ten classes,
task-incremental that of the argmax over the two classes of the row's task; both are means over tasks at the end.

Permuted: ten increments of all classes, each with its pixels shuffled anew (another shuffle for every seed) and
standardised; one head, task not told. MLP 784-512-512-10, SGD, batches of 64, one pass, the learning rate falling to 0
within each increment by half a cosine, for all methods, naive included.

Every figure is a mean and a deviation over seeds, on the 10,000 test rows after learning all 60,000 training rows. What
the peer prescribes (learning rates, rows replayed, weights of terms) is as it prescribes; all other settings were
chosen with `--validate`, by seeds from 100 on, learning the first 50,000 training rows and scored on the other 10,000.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from benchmarks.fashion_mnist import fashion_mnist
from benchmarks.scores import Scores, spread
from incr_core.batch import Batch, cat
from incr_core.learner import Learner, Schedule
from incr_core.memories import Memory
from incr_core.metrics import forgetting
from incr_core.models.adapt import NearestMean
from incr_core.numerics import settle_arithmetic
from incr_core.objectives import Multiclass
from incr_core.strategies import ACE, AGEM, DER, EWC, MAS, MIR, SI, GDumb, ICaRL, LwF, Replay, Strategy
from incr_core.testing import class_incremental, permuted

RESULTS = Path(__file__).parent / "results" / "forgetting.json"


@dataclass(frozen=True)
class Method:
    """A composition of strategies with its learning rate; `make` takes the rows of memory it may use."""

    make: Callable[[int], Sequence[Strategy]]
    lr: float | dict[int, float]
    buffered: bool = True
    nearest_mean: bool = False
    joint: bool = False

    def rate(self, rows: int) -> float:
        """The learning rate with that much memory."""
        return self.lr[rows] if isinstance(self.lr, dict) else self.lr

    def settings(self, rows: int) -> str:
        """The strategies with their arguments, and the learning rate, in words."""
        parts = [f"{type(part).__name__}({part.extra_repr()}{kind(part)})" for part in self.make(rows)]
        return f"{' + '.join(parts) or 'none'}, lr {self.rate(rows)}"


def kind(strategy: Strategy) -> str:
    """What memory a strategy keeps."""
    return "".join(f", {type(part).__name__}" for part in strategy.children() if isinstance(part, Memory))


METHODS = {
    "naive": Method(lambda rows: [], 0.03, buffered=False),
    "joint": Method(lambda rows: [], 0.03, buffered=False, joint=True),
    "ewc": Method(lambda rows: [EWC(strength=180.0)], 0.03, buffered=False),
    "si": Method(lambda rows: [SI(strength=1.0, damping=0.9)], 0.1, buffered=False),
    "si, strength 2": Method(lambda rows: [SI(strength=2.0, damping=0.9)], 0.1, buffered=False),
    "mas": Method(lambda rows: [MAS(strength=0.1)], 0.03, buffered=False),
    "lwf": Method(lambda rows: [LwF(strength=1.0)], 0.03, buffered=False),
    "er": Method(lambda rows: [Replay(rows)], {200: 0.01, 500: 0.1}),
    "derpp": Method(lambda rows: [DER(rows, 0.2, 1.0, ratio=12.8) if rows == 200 else DER(rows, 1.0, 0.5)], 0.03),
    "er_ace": Method(lambda rows: [ACE(), Replay(rows)], {200: 0.1, 500: 0.03}),
    "er, herded": Method(lambda rows: [Replay(rows, memory="herding")], {200: 0.01, 500: 0.1}),
    "derpp, herded": Method(
        lambda rows: [
            DER(rows, 0.2, 1.0, ratio=12.8, memory="herding") if rows == 200 else DER(rows, 1.0, 0.5, memory="herding")
        ],
        0.03,
    ),
    "er_ace, herded": Method(lambda rows: [ACE(), Replay(rows, memory="herding")], {200: 0.1, 500: 0.03}),
    "gdumb": Method(lambda rows: [GDumb(rows, passes=60, rows=10)], 0.05),
    "icarl": Method(lambda rows: [ICaRL(rows)], 0.1, nearest_mean=True),
    "agem": Method(lambda rows: [AGEM(rows)], 0.1),
    "mir": Method(lambda rows: [MIR(rows)], 0.03),
    "ours, random": Method(lambda rows: [ACE(margin=3.0), DER(rows, 1.0, 1.0, ratio=3.0, memory="balanced")], 0.05),
    "ours, rows": Method(lambda rows: [ACE(margin=3.0), DER(rows, 1.0, 1.0, ratio=3.0, memory="herding")], 0.05),
    "ours, means": Method(lambda rows: [ACE(margin=3.0), DER(rows, 0.5, 1.0, ratio=3.0, memory="prototypes")], 0.05),
}
"""Ours know no boundaries. One keeps rows as they are, chosen to have the mean of their class; the other, in as many
slots, means of rows that are alike."""

MAMMOTH: dict[str, tuple[float, float]] = {
    "er 200": (73.97, 98.37),
    "er 500": (77.51, 98.46),
    "derpp 200": (76.86, 97.88),
    "derpp 500": (81.10, 98.47),
    "er_ace 200": (74.34, 97.60),
    "er_ace 500": (78.93, 97.96),
    "gdumb 200": (72.72, 96.15),
    "gdumb 500": (77.14, 97.32),
    "icarl 200": (60.73, 98.04),
    "icarl 500": (61.80, 98.07),
    "agem 200": (33.06, 97.34),
    "agem 500": (33.06, 97.34),
    "naive 0": (19.94, 84.87),
    "ewc 0": (19.94, 97.45),
    "si 0": (19.93, 91.12),
    "joint 0": (84.1, 98.96),
}
"""Class- and task-incremental accuracy of Mammoth, mean of three seeds, by method and rows of memory."""


@dataclass(frozen=True)
class Budget:
    """What a learner may spend, in one pass: the widths of its hidden layers, the rows of a batch.

    cosine: whether the learning rate falls to 0 within each increment.
    """

    hidden: Sequence[int] = (100, 100)
    batch: int = 10
    cosine: bool = False

    def schedule(self, rows: int) -> Schedule | None:
        """The schedule for increments of so many rows."""
        steps = math.ceil(rows / self.batch)
        return Schedule(partial(CosineAnnealingWarmRestarts, T_0=steps)) if self.cosine else None


PERMUTED = {
    "naive": Method(lambda rows: [], 0.05, buffered=False),
    "ewc": Method(lambda rows: [EWC(strength=50.0, samples=256)], 0.05, buffered=False),
    "si": Method(lambda rows: [SI(strength=4.0)], 0.05, buffered=False),
}

AVALANCHE = {"ewc 0": 74.5, "si 0": 64.9}
"""Average accuracy of Avalanche 0.6 on permuted Fashion-MNIST, its SI patched."""


@dataclass
class Protocol:
    """A stream with its test rows by seed, what learners may spend on it, and the peer's figures."""

    name: str
    stream: Callable[[Batch, int], list[Batch]]
    budget: Budget
    methods: dict[str, Method]
    peer: str
    figures: dict[str, Any]
    columns: Sequence[str] = field(default=("class_il",))


PROTOCOLS = {
    "A": Protocol(
        "A",
        lambda rows, seed: class_incremental(rows, 2),
        Budget(),
        METHODS,
        "Mammoth",
        MAMMOTH,
        ("class_il", "task_il"),
    ),
    "permuted": Protocol(
        "permuted",
        lambda rows, seed: permuted(standardised(rows), 10, seed=seed),
        Budget((512, 512), 64, cosine=True),
        PERMUTED,
        "Avalanche",
        {name: (figure,) for name, figure in AVALANCHE.items()},
    ),
}


def standardised(rows: Batch) -> Batch:
    """Pixels of mean 0 and deviation 1 over the training rows."""
    assert isinstance(rows.inputs, torch.Tensor)
    return replace(rows, inputs=(rows.inputs - 0.286) / 0.353)


def network(budget: Budget, seed: int, nearest_mean: bool = False) -> nn.Sequential:
    """An MLP with rectified hidden layers, initialised like Mammoth's: Xavier uniform, biases zero."""
    torch.manual_seed(seed)
    widths, layers = [784, *budget.hidden], list[nn.Module]()
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    head = NearestMean if nearest_mean else nn.Linear
    model = nn.Sequential(*layers, head(widths[-1], 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def learn(
    method: Method, rows: int, seed: int, train: list[Batch], test: list[Batch], budget: Budget
) -> dict[str, float]:
    """Learn the increments in turn; accuracies in per cent, forgetting, seconds of learning, numbers kept per slot."""
    optimizer = partial(torch.optim.SGD, lr=method.rate(rows))
    model = network(budget, seed, method.nearest_mean)
    strategies, schedule = [*method.make(rows)], budget.schedule(len(train[0]))
    learner = Learner(
        model, Multiclass(10), optimizer, strategies, batch_size=budget.batch, seed=seed, schedule=schedule
    )
    seconds, matrix = 0.0, []
    for number, increment in enumerate([cat(train)] if method.joint else train):
        begun = time.perf_counter()
        learner.learn(increment)
        seconds += time.perf_counter() - begun
        known = test if method.joint else test[: number + 1]
        matrix.append([accuracy(learner, task) for task in known] + [0.0] * (len(test) - len(known)))
    square = matrix * len(test) if method.joint else matrix
    within = [accuracy(learner, task, among=torch.unique(task.targets)) for task in test]
    return {
        "class_il": statistics.mean(matrix[-1]),
        "task_il": statistics.mean(within),
        "forgetting": forgetting(square),
        "seconds": seconds,
        "numbers_per_slot": slot(learner),
    }


def accuracy(learner: Learner, rows: Batch, among: torch.Tensor | None = None) -> float:
    """Per cent of rows predicted right, by the argmax over the classes `among`, or all."""
    predictions = learner.predict(rows.inputs)
    chosen = predictions.argmax(1) if among is None else among[predictions[:, among].argmax(1)]
    return 100.0 * float((chosen == rows.targets).double().mean())


def slot(learner: Learner) -> float:
    """Numbers that the learner's memory holds for a slot: the inputs', the label, and what the strategy adds."""
    memories = [part for part in learner.strategies.modules() if isinstance(part, Memory)]
    return float(sum(column[0].numel() for memory in memories for column in memory.rows_held().values()))


def table(
    protocol: Protocol, names: Sequence[str], buffers: Sequence[int], seeds: Sequence[int], kept: Scores | None
) -> None:
    """Make what runs are missing, and print a line for each method and buffer."""
    heads = "".join(f"{column:>15} {protocol.peer:>9} {'diff':>6}" for column in protocol.columns)
    print(f"\n{protocol.name:<16}{'rows':>5}{heads}{'forgetting':>12}{'numbers/slot':>13}{'s':>7}")
    parts = fashion_mnist()
    if kept is None:
        parts = parts[0].slice(0, 50_000), parts[0].slice(50_000, 60_000)
    for name in names:
        method = protocol.methods[name]
        for rows in buffers if method.buffered else [0]:
            scores = []
            for seed in seeds:
                run = {"protocol": protocol.name, "method": name, "rows": rows, "seed": seed}
                run["settings"] = f"{method.settings(rows)}, {protocol.budget}"
                found = kept.find(run) if kept else None
                if found is None:
                    train, test = (protocol.stream(part, seed) for part in parts)
                    found = learn(method, rows, seed, train, test, protocol.budget)
                    if kept:
                        kept.add(run, found)
                scores.append(found)
            peers = protocol.figures.get(f"{name.split(',')[0]} {rows}", (None,) * len(protocol.columns))
            cells = [cell([s[c] for s in scores], peer) for c, peer in zip(protocol.columns, peers, strict=True)]
            forgot, numbers, seconds = (
                statistics.mean(s[column] for s in scores) for column in ("forgetting", "numbers_per_slot", "seconds")
            )
            print(f"{name:<16}{rows:>5}{''.join(cells)}{forgot:>12.2f}{numbers:>13.0f}{seconds:>7.1f}", flush=True)


def cell(values: Sequence[float], peer: float | None) -> str:
    """Ours, the peer's, and the difference."""
    mean, deviation = spread(values)
    ours = f"{mean:>8.2f} +-{deviation:5.2f}"
    return f"{ours}{'':>17}" if peer is None else f"{ours} {peer:>9.2f} {mean - peer:>+6.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--buffers", nargs="+", type=int, default=[200, 500])
    parser.add_argument("--permuted", nargs="*", default=list(PERMUTED), choices=list(PERMUTED))
    parser.add_argument("--validate", action="store_true", help="score on training rows held out; keep nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    settle_arithmetic(1)
    kept = None if arguments.validate else Scores(arguments.out, {"Mammoth": MAMMOTH, "Avalanche": AVALANCHE})
    for name, methods in (("A", arguments.methods), ("permuted", arguments.permuted)):
        if methods:
            table(PROTOCOLS[name], methods, arguments.buffers, arguments.seeds, kept)


if __name__ == "__main__":
    main()
