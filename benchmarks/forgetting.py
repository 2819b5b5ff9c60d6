"""How much each strategy forgets, on Fashion-MNIST.

    python benchmarks/forgetting.py --seeds 5                  the whole table
    python benchmarks/forgetting.py --methods er derpp --buffers 200 --seeds 1

Protocol A (Mammoth's seq-MNIST, on Fashion-MNIST): five increments of two classes, in label order; MLP
784-100-100-10; SGD, batches of 10, one pass. Class-incremental accuracy is that of the argmax over all ten classes,
task-incremental that of the argmax over the two classes of the row's task; both are means over tasks at the end.

Permuted: ten increments of all classes with shuffled pixels, one head.

Every figure is a mean and a deviation over seeds. The peer's figures were measured on the same protocol.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from incr_core.batch import Batch, cat
from incr_core.continual import average_accuracy, forgetting
from incr_core.heads import NearestMean
from incr_core.idx import fashion_mnist
from incr_core.learner import Learner
from incr_core.objective import Multiclass
from incr_core.scenarios import class_incremental, permuted
from incr_core.strategies import ACE, AGEM, DER, EWC, MAS, MIR, SI, GDumb, ICaRL, LwF, Replay
from incr_core.strategy import Strategy

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


METHODS = {
    "naive": Method(lambda rows: [], 0.03, buffered=False),
    "joint": Method(lambda rows: [], 0.03, buffered=False, joint=True),
    "ewc": Method(lambda rows: [EWC(strength=180.0)], 0.03, buffered=False),
    "si": Method(lambda rows: [SI(strength=1.0, damping=0.9)], 0.1, buffered=False),
    "mas": Method(lambda rows: [MAS(strength=0.1)], 0.03, buffered=False),
    "lwf": Method(lambda rows: [LwF(strength=1.0)], 0.03, buffered=False),
    "er": Method(lambda rows: [Replay(rows)], {200: 0.01, 500: 0.1}),
    "derpp": Method(lambda rows: [DER(rows, 0.2, 1.0, ratio=12.8) if rows == 200 else DER(rows, 1.0, 0.5)], 0.03),
    "er_ace": Method(lambda rows: [ACE(), Replay(rows)], {200: 0.1, 500: 0.03}),
    "gdumb": Method(lambda rows: [GDumb(rows, passes=60, rows=10)], 0.05),
    "icarl": Method(lambda rows: [ICaRL(rows)], 0.1, nearest_mean=True),
    "agem": Method(lambda rows: [AGEM(rows)], 0.1),
    "mir": Method(lambda rows: [MIR(rows)], 0.03),
    "ace+der on prototypes": Method(
        lambda rows: [ACE(margin=3.0), DER(rows, logits=0.2, labels=1.0, ratio=3.0, memory="prototypes")], 0.05
    ),
}

MAMMOTH: dict[tuple[str, int], tuple[float, float]] = {
    ("er", 200): (73.97, 98.37),
    ("er", 500): (77.51, 98.46),
    ("derpp", 200): (76.86, 97.88),
    ("derpp", 500): (81.10, 98.47),
    ("er_ace", 200): (74.34, 97.60),
    ("er_ace", 500): (78.93, 97.96),
    ("gdumb", 200): (72.72, 96.15),
    ("gdumb", 500): (77.14, 97.32),
    ("icarl", 200): (60.73, 98.04),
    ("icarl", 500): (61.80, 98.07),
    ("agem", 200): (33.06, 97.34),
    ("agem", 500): (33.06, 97.34),
    ("naive", 0): (19.94, 84.87),
    ("ewc", 0): (19.94, 97.45),
    ("si", 0): (19.93, 91.12),
    ("joint", 0): (84.1, 98.96),
}
"""Class- and task-incremental accuracy of Mammoth, mean of three seeds, by method and rows of memory."""

PERMUTED = {
    "naive": Method(lambda rows: [], 0.05, buffered=False),
    "ewc": Method(lambda rows: [EWC(strength=100.0, samples=256)], 0.05, buffered=False),
    "si": Method(lambda rows: [SI(strength=1.0)], 0.05, buffered=False),
}

AVALANCHE = {"ewc": 74.5, "si": 64.9}
"""Average accuracy of Avalanche 0.6 on permuted Fashion-MNIST, its SI patched."""


@dataclass(frozen=True)
class Score:
    """Accuracies in per cent at the end of a run, and the seconds it took."""

    classes: float
    tasks: float
    forgetting: float
    seconds: float


def network(widths: Sequence[int], seed: int, nearest_mean: bool = False) -> nn.Sequential:
    """An MLP with rectified hidden layers, initialised like Mammoth's: Xavier uniform, biases zero."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    head = NearestMean if nearest_mean else nn.Linear
    model = nn.Sequential(*layers, head(widths[-2], widths[-1]))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def run(method: Method, rows: int, seed: int, train: list[Batch], test: list[Batch], hidden: int, size: int) -> Score:
    """Learn the increments in turn, and test on all tasks after each."""
    if method.joint:
        train = [cat(train)]
    model = network([784, hidden, hidden, 10], seed, method.nearest_mean)
    optimizer = partial(torch.optim.SGD, lr=method.rate(rows))
    learner = Learner(model, Multiclass(10), optimizer, [*method.make(rows)], batch_size=size, seed=seed)
    begun, matrix, within = time.perf_counter(), [], [0.0]
    for increment in train:
        learner.learn(increment)
        matrix.append([accuracy(learner, task) for task in test])
    seconds = time.perf_counter() - begun
    within = [accuracy(learner, task, among=torch.unique(task.targets)) for task in test]
    square = matrix if len(matrix) == len(test) else [matrix[-1]] * len(test)
    return Score(average_accuracy(square), statistics.mean(within), forgetting(square), seconds)


def accuracy(learner: Learner, rows: Batch, among: torch.Tensor | None = None) -> float:
    """Per cent of rows predicted right, by the argmax over the classes `among`, or all."""
    predictions = learner.predict(rows.inputs)
    chosen = predictions.argmax(1) if among is None else among[predictions[:, among].argmax(1)]
    return 100.0 * float((chosen == rows.targets).double().mean())


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def split(names: Sequence[str], buffers: Sequence[int], seeds: int) -> list[dict[str, object]]:
    """Protocol A, a line of the table for each method and buffer."""
    train, test = (class_incremental(part, 2) for part in fashion_mnist())
    print(
        f"{'method':<22}{'rows':>5}  {'class-IL':>13} {'Mammoth':>8} {'diff':>6}  {'task-IL':>13} {'Mammoth':>8}",
        end="",
    )
    print(f" {'diff':>6}  {'forgetting':>10} {'s':>6}")
    lines: list[dict[str, object]] = []
    for name in names:
        method = METHODS[name]
        for rows in buffers if method.buffered else [0]:
            scores = [run(method, rows, seed, train, test, hidden=100, size=10) for seed in range(seeds)]
            classes, tasks = spread([s.classes for s in scores]), spread([s.tasks for s in scores])
            forgot, seconds = statistics.mean(s.forgetting for s in scores), statistics.mean(s.seconds for s in scores)
            peer = MAMMOTH.get((name, rows))
            print(f"{name:<22}{rows:>5}  {cell(classes, peer and peer[0])}  {cell(tasks, peer and peer[1])}", end="")
            print(f"  {forgot:>10.2f} {seconds:>6.1f}", flush=True)
            lines.append(
                {"method": name, "rows": rows, "class_il": classes, "task_il": tasks, "forgetting": forgot}
                | {"seconds": seconds, "mammoth": peer, "seeds": seeds}
            )
    return lines


def permuted_split(names: Sequence[str], seeds: int) -> list[dict[str, object]]:
    """Permuted Fashion-MNIST, a line of the table for each method."""
    train, test = (permuted(part, 10, seed=0) for part in fashion_mnist())
    print(f"\n{'permuted':<27}  {'accuracy':>13} {'Avalanche':>8} {'diff':>6}  {'forgetting':>10} {'s':>6}")
    lines: list[dict[str, object]] = []
    for name in names:
        scores = [run(PERMUTED[name], 0, seed, train, test, hidden=256, size=64) for seed in range(seeds)]
        mean, seconds = spread([s.classes for s in scores]), statistics.mean(s.seconds for s in scores)
        forgot, peer = statistics.mean(s.forgetting for s in scores), AVALANCHE.get(name)
        print(f"{name:<27}  {cell(mean, peer)}  {forgot:>10.2f} {seconds:>6.1f}", flush=True)
        lines.append({"method": name, "accuracy": mean, "forgetting": forgot, "seconds": seconds, "avalanche": peer})
    return lines


def cell(value: tuple[float, float], peer: float | None) -> str:
    """Ours, the peer's, and the difference."""
    ours = f"{value[0]:>6.2f} +- {value[1]:<4.2f}"
    return f"{ours} {'':>8} {'':>6}" if peer is None else f"{ours} {peer:>8.2f} {value[0] - peer:>+6.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--buffers", nargs="*", type=int, default=[200, 500])
    parser.add_argument("--permuted", nargs="*", default=list(PERMUTED), choices=list(PERMUTED))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "split": split(arguments.methods, arguments.buffers, arguments.seeds),
        "permuted": permuted_split(arguments.permuted, arguments.seeds),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
