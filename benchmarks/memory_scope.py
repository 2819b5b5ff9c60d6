"""Forgetting of four replicas that draw remembered rows from all memories, or each from its own.

    python -m benchmarks.memory_scope                               every run not made yet, and the table
    python -m benchmarks.memory_scope --seeds 0 --strategies er

Split Fashion-MNIST as `benchmarks.engines` learns it, in increments of 400 rows, with 200 rows of memory in all: one
process of 200, and four replicas of 50 each that average every five steps. Learning rates and weights are the same in
all arms of a strategy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.engines import AVERAGE_EVERY, Arm, learn
from benchmarks.fashion_mnist import FASHION_MNIST, fashion_mnist
from benchmarks.scores import Scores, spread
from incr_core.testing import class_incremental

RESULTS = Path(__file__).parent / "results" / "memory_scope.json"
SLOTS, REPLICAS, RATE = 200, 4, 0.03
STRATEGIES = {
    "er": "[{{name='replay', capacity={0}}}]",
    "derpp": "[{{name='der', capacity={0}, logits=0.2, labels=1.0, ratio=3.0}}]",
}


def arms(strategy: str) -> dict[str, Arm]:
    """The learners that are compared."""

    def arm(engine: str, batch: int, slots: int, *settings: str) -> Arm:
        told = [f"strategy={STRATEGIES[strategy].format(slots)}", f"learner.optimizer={{name='sgd', lr={RATE}}}"]
        return Arm(engine, batch, slots, [*told, *settings])

    replicas = [f"cluster.replicas={REPLICAS}", f"cluster.average_every={AVERAGE_EVERY}"]
    return {
        f"one process, {SLOTS} rows": arm("local", 10, SLOTS),
        f"{REPLICAS} replicas of {SLOTS // REPLICAS}, own": arm("cluster", 5, SLOTS // REPLICAS, *replicas),
        f"{REPLICAS} replicas of {SLOTS // REPLICAS}, all": arm(
            "cluster", 5, SLOTS // REPLICAS, *replicas, "cluster.memory_scope=all"
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--data", type=Path, default=FASHION_MNIST, help="the folder of Fashion-MNIST's four files")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    train, test = fashion_mnist(arguments.data)
    kept = Scores(arguments.out, {})
    print(f"{'':<36}{'class-IL':>16}{'s':>8}")
    for strategy in arguments.strategies:
        for name, arm in arms(strategy).items():
            scores = []
            for seed in arguments.seeds:
                run = {"arm": f"{strategy}, {name}", "seed": seed, "settings": str(arm)}
                found = kept.find(run)
                if found is None:
                    found = learn(arm, seed, train, class_incremental(test, 2))
                    kept.add(run, found)
                scores.append(found)
            mean, deviation = spread([score["class_il"] for score in scores])
            seconds = sum(score["seconds"] for score in scores) / len(scores)
            print(f"{strategy + ', ' + name:<36}{mean:>8.2f} +-{deviation:5.2f}{seconds:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
