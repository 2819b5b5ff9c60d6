"""A head that cannot forget: class-incremental Fashion-MNIST in one pass, by ridge regression, and no row kept.

    python -m benchmarks.ridge                      every row of the table; --seeds 0 --features 2000 for one run

Five increments of two classes, in label order; pixels less 0.286, over 0.353. The seed is that of the random features,
and of the order of classes in `shuffled`. Of each run: the accuracy on the 10,000 test rows after all increments, and
how far its head is from that of the run in label order, by the largest weight.

    label order     as they are
    shuffled        classes in another order, and rows within an increment
    10 clients      each increment's rows dealt to ten owners by Dirichlet(0.1), whose sums are added
    erased          2,000 rows of other labels are learned in the midst, and taken out of the sums at the end
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.fashion_mnist import FASHION_MNIST, fashion_mnist
from benchmarks.forgetting import standardised
from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.models.adapt import ridge
from incr_core.numerics import settle_arithmetic
from incr_core.objectives import Multiclass
from incr_core.strategies import Ridge
from incr_core.update import merge_shared

CLIENTS, ALPHA = 10, 0.1
ERASED = 2000


def learner_of(features: int, seed: int) -> Learner:
    """A learner whose model is random features of pixels, and the head."""
    model = ridge(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), features, seed)
    return Learner(model, Multiclass(10), "sgd", [Ridge()], batch_size=256)


def increments(rows: Batch, order: Sequence[int], generator: torch.Generator | None = None) -> list[Batch]:
    """Two classes each, in that order."""
    found = []
    for first in range(0, 10, 2):
        mine = torch.isin(rows.targets, torch.tensor(order[first : first + 2])).nonzero().reshape(-1)
        found.append(rows.take(mine if generator is None else mine[torch.randperm(len(mine), generator=generator)]))
    return found


def in_turn(features: int, seed: int, stream: Sequence[Batch]) -> Learner:
    """Learn one increment after another."""
    learner = learner_of(features, seed)
    for increment in stream:
        learner.learn(increment)
    return learner


def by_clients(features: int, seed: int, stream: Sequence[Batch]) -> Learner:
    """Let ten clients learn their rows of each increment, and merge what they share, as a server does."""
    generator = np.random.default_rng(seed)
    clients = [learner_of(features, seed) for _ in range(CLIENTS)]
    shared = {name: value.clone() for name, value in clients[0].shared_state()[0].items()}
    rules = clients[0].shared_state()[1]
    for increment in stream:
        states, counts = [], []
        shares = torch.from_numpy(generator.dirichlet([ALPHA] * CLIENTS, 10))  # of each class
        edges = shares.cumsum(1)[increment.targets]
        drawn = torch.from_numpy(generator.random(len(increment)))
        owner = (drawn[:, None] > edges).sum(1).clamp(max=CLIENTS - 1)
        for number, client in enumerate(clients):
            mine = increment.take((owner == number).nonzero().reshape(-1))
            client.adopt_shared(shared)
            if len(mine):
                client.begin(mine)
                client.advance()
                client.end(mine, derives=False)
                states.append(client.shared_state()[0])
                counts.append(len(mine))
        shared = merge_shared(states, counts, rules, shared)
        shared = {name: value.clone() for name, value in shared.items()}
        clients[0].adopt_shared(shared)  # all come to the same head: one is enough
        clients[0].derive()
        shared = {name: value.clone() for name, value in clients[0].shared_state()[0].items()}
    return clients[0]


def erased(features: int, seed: int, stream: Sequence[Batch]) -> Learner:
    """Learn wrong rows too, and take them out."""
    wrong = replace(stream[1].slice(0, ERASED), targets=(stream[1].targets[:ERASED] + 1) % 10)
    learner = learner_of(features, seed)
    for increment in [*stream[:2], wrong, *stream[2:]]:
        learner.learn(increment)
    strategy = learner.strategies[0]
    assert isinstance(strategy, Ridge)
    strategy.take_out(learner.model, learner.objective, wrong)
    learner.derive()
    return learner


def head(learner: Learner) -> Tensor:
    """Its weights."""
    return next(value for name, value in learner.weights().items() if name.endswith("ridge_weight")).double()


WAYS = ("label order", "shuffled", "10 clients", "erased")


def run(
    features: int, seed: int, train: Batch, test: Batch, ways: Sequence[str] = WAYS
) -> dict[str, tuple[float, float, float]]:
    """Accuracy, distance and seconds of CPU of each way to learn."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(10, generator=generator).tolist()
    plain = increments(train, range(10))
    make = {
        "label order": lambda: in_turn(features, seed, plain),
        "shuffled": lambda: in_turn(features, seed, increments(train, order, generator)),
        "10 clients": lambda: by_clients(features, seed, plain),
        "erased": lambda: erased(features, seed, plain),
    }
    found: dict[str, tuple[float, float, float]] = {}
    first: Tensor | None = None
    for name in ways:
        begun = time.process_time()
        learner = make[name]()
        seconds = time.process_time() - begun
        weights = head(learner)
        first = weights if first is None else first
        right = learner.predict(test.inputs, 1000).argmax(1) == test.targets
        apart = float((weights - first).abs().max() / first.abs().max())
        found[name] = 100.0 * float(right.double().mean()), apart, seconds
        print(
            f"  {features:>5} features, seed {seed}, {name:<12} {found[name][0]:.2f}  {apart:.1e}  {seconds:.0f} s",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--features", nargs="+", type=int, default=[500, 2000, 4000])
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--data", type=Path, default=FASHION_MNIST)
    arguments = parser.parse_args()
    settle_arithmetic(1)
    train, test = (standardised(part) for part in fashion_mnist(arguments.data))
    for features in arguments.features:
        runs = [run(features, seed, train, test, arguments.ways) for seed in arguments.seeds]
        for name in runs[0]:
            scores, apart, seconds = zip(*(found[name] for found in runs), strict=True)
            mean, deviation = statistics.mean(scores), statistics.stdev(scores) if len(scores) > 1 else 0.0
            cost = statistics.mean(seconds)
            print(f"{features:>5} {name:<12} {mean:.2f} +- {deviation:.2f}  apart {max(apart):.1e}  {cost:.0f} s")


if __name__ == "__main__":
    main()
