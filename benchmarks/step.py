"""The learner's step: the cost of each strategy over a hand-written loop of the same maths, and beside Avalanche 0.6.

    python -m benchmarks.step
    python -m benchmarks.step --strategies ewc si --optimizers sgd --repeats 25     no file is written
    python -m benchmarks.step --hidden 100 --out benchmarks/results/step_100.json   a network of a third of the weights

All arms learn the same rows with one thread, in turns. The table holds medians over repeats: of rows per second of CPU
time (which a busy machine disturbs less than wall-clock time) and of the ratios of time within a repeat.

Before the timing, every arm learns two increments, and the hand-written loop (`by_hand.py`) and the learner must have
the same weights: to the bit if both round alike, else within `TOLERANCE`. The timed increments come after those, when
memories are full and penalties act. Work at an increment's end (Fisher information, SI's importance, A-GEM's memory)
belongs to no step and is left out for all arms, including Avalanche.

Avalanche takes part if it is installed (see `with_avalanche.py`), in two arms: as it comes, with its metrics and its
progress bar (discarded), and lean, with the mean loss alone, as incr. The ratio of the hand-written loop to Avalanche
shows the possible gain.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import by_hand
from benchmarks.with_avalanche import PLUGINS, avalanche, avalanche_version
from incr_core.batch import Batch
from incr_core.learner import Learner, OptimizerFactory
from incr_core.numerics import settle_arithmetic
from incr_core.objectives import Multiclass
from incr_core.strategies import AGEM, DER, EWC, L2SP, SI, Replay, Strategy

RESULTS = Path(__file__).parent / "results" / "step.json"
TOLERANCE = 1e-6
SIZES = (10, 128)
OPTIMIZERS: dict[str, OptimizerFactory] = {
    "sgd": partial(torch.optim.SGD, lr=0.01),
    "adam": partial(torch.optim.Adam, lr=0.001, fused=True),
}
LOOPS: dict[str, type[by_hand.Loop]] = {
    "none": by_hand.Loop,
    "replay": by_hand.Replay,
    "ewc": by_hand.EWC,
    "si": by_hand.SI,
    "l2sp": by_hand.L2SP,
    "der++": by_hand.DERpp,
    "agem": by_hand.AGEM,
}
OVER_HAND = {"none": 1.03, "replay": 1.08, "ewc": 1.15, "si": 1.15, "l2sp": 1.15, "der++": 1.10, "agem": 1.20}
"""The most time over the hand-written loop's, at batch 128; at batch 10, `SMALLER` more."""
SMALLER = 0.1
OVER_AVALANCHE = {"none": 1.8, "replay": 2.0, "ewc": 2.0}
"""The least speed over Avalanche's, as it comes."""

Run = Callable[[], float]
"""Learns one more increment; returns the CPU seconds it took, its end left out."""


def network(hidden: int) -> nn.Sequential:
    """The same weights at every call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def some_rows(count: int) -> tuple[Tensor, Tensor]:
    """Random pictures of ten classes."""
    torch.manual_seed(1)
    return torch.rand(count, 784), torch.randint(10, (count,))


def strategies(name: str, size: int) -> list[Strategy]:
    """What the learner is given, for it to do the maths of the loop of this name."""
    made: dict[str, Callable[[], list[Strategy]]] = {
        "none": list,
        "replay": lambda: [Replay(capacity=500, ratio=1.0)],
        "ewc": lambda: [EWC(strength=100.0, samples=64)],
        "si": lambda: [SI(strength=1.0)],
        "l2sp": lambda: [L2SP(strength=0.01)],
        "der++": lambda: [DER(capacity=500, logits=0.5, labels=0.5)],
        "agem": lambda: [AGEM(capacity=500, rows=size)],
    }
    return made[name]()


def hand(x: Tensor, y: Tensor, loop: by_hand.Loop, consolidate: bool) -> float:
    """An increment of a hand-written loop."""
    begun = time.process_time()
    loop.learn(x, y)
    took = time.process_time() - begun
    if consolidate:
        loop.consolidate(x, y)
    return took


def ours(rows: Batch, learner: Learner, consolidate: bool) -> float:
    """An increment of the learner's."""
    begun = time.process_time()
    learner.begin(rows)
    learner.advance()
    took = time.process_time() - begun
    if consolidate:
        learner.end(rows)
    return took


def furthest(one: nn.Module, two: nn.Module) -> float:
    """The largest difference between weights, 0 where they are equal to the bit."""
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in pairs)


def arms(
    x: Tensor, y: Tensor, hidden: int, name: str, optimizer: OptimizerFactory, size: int, peer: bool
) -> tuple[dict[str, Run], float]:
    """Whoever takes part, two increments old; and how far apart the learner's and the hand-written loop's weights are.

    AssertionError where these differ by more than rounding, or where the strategy does nothing.
    """
    rows = Batch(x, y)

    def loop_of(name: str) -> by_hand.Loop:
        model = network(hidden)
        return LOOPS[name](model, optimizer(model.parameters()), size)

    loop, bare = loop_of(name), loop_of("none")
    learner = Learner(network(hidden), Multiclass(10), optimizer, strategies(name, size), batch_size=size)
    for consolidate in (True, False):
        ours(rows, learner, consolidate)
        for each in (loop, bare):
            hand(x, y, each, consolidate)
    apart = furthest(loop.model, learner.model)
    assert apart <= TOLERANCE, f"{name}: the hand-written loop must do the same maths, weights differ by {apart:.1e}"
    alive = furthest(bare.model, learner.model)
    assert name == "none" or alive > 10 * apart, f"{name}: the strategy must do something"
    runs: dict[str, Run] = {
        "hand": partial(hand, x, y, loop, consolidate=False),
        "ours": partial(ours, rows, learner, consolidate=False),
    }
    if peer:
        for arm in ("avalanche", "lean"):
            model = network(hidden)
            runs[arm] = avalanche(x, y, model, optimizer(model.parameters()), size, name, lean=arm == "lean")
            runs[arm]()
            runs[arm]()
    return runs, apart


def seconds(runs: dict[str, Run], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each run, in turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats):
        # Every other repeat the other way round, so that nobody always runs behind the same neighbour.
        for name in list(runs)[:: 1 if repeat % 2 else -1]:
            found[name].append(runs[name]())
    return found


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Median of the ratios within a repeat."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def measured(found: dict[str, list[float]], rows: int, name: str, size: int) -> dict[str, Any]:
    """One cell: figures and the targets they are held to."""
    cell: dict[str, Any] = {
        "rows_per_second": {run: round(rows / statistics.median(each)) for run, each in found.items()},
        "time_over_hand": round(ratio(found["ours"], found["hand"]), 3),
        "target_over_hand": round(OVER_HAND[name] + (SMALLER if size == min(SIZES) else 0.0), 2),
    }
    for peer in set(found) - {"hand", "ours"}:
        cell[f"speed_over_{peer}"] = round(ratio(found[peer], found["ours"]), 2)
        cell[f"hand_over_{peer}"] = round(ratio(found[peer], found["hand"]), 2)
        cell["target_over_avalanche"] = OVER_AVALANCHE[name]
    return cell


def line(cell: dict[str, Any]) -> str:
    """A row of the table."""
    told = cell["rows_per_second"]
    text = f"{cell['optimizer']:5} batch {cell['batch_size']:3} {cell['strategy']:7}"
    text += "".join(
        f"{told[run]:>11,}" if run in told else f"{'-':>11}" for run in ("hand", "ours", "avalanche", "lean")
    )
    text += f"   {cell['time_over_hand']:>7.3f} ({cell['target_over_hand']:.2f})  "
    text += "to the bit" if cell["weights_apart"] == 0 else f"{cell['weights_apart']:>10.0e}"
    if "speed_over_avalanche" in cell:
        text += f"   {cell['speed_over_avalanche']:.2f} ({cell['target_over_avalanche']:.1f})   "
        text += f"{cell['speed_over_lean']:.2f}   {cell['hand_over_avalanche']:.2f}   {cell['hand_over_lean']:.2f}"
    return text


HEAD = f"""{"":24}{"rows per second of CPU":>43}   {"time over":>14}  {"weights":>10}   speed over      by hand over
{"":24}{"by hand":>10}{"ours":>11}{"avalanche":>11}{"lean":>11}   {"hand (most)":>14}  \
{"apart by":>10}   Avalanche lean   Avalanche lean"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--hidden", type=int, default=256, help="width of the two hidden layers")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name}, if nothing else is told")
    arguments = parser.parse_args()
    settle_arithmetic(1)  # or moments that fade away make fused Adam four times slower, for everybody
    x, y = some_rows(arguments.rows)
    version = avalanche_version()
    sizes = f"784-{arguments.hidden}-{arguments.hidden}-10"
    print(f"MLP {sizes}, {arguments.rows} rows an increment, {arguments.repeats} repeats, 1 thread\n{HEAD}")
    cells = []
    for name in arguments.strategies:
        for optimizer in arguments.optimizers:
            for size in SIZES:
                peer = version is not None and name in PLUGINS
                runs, apart = arms(x, y, arguments.hidden, name, OPTIMIZERS[optimizer], size, peer)
                cell = {"optimizer": optimizer, "batch_size": size, "strategy": name, "weights_apart": apart}
                cell |= measured(seconds(runs, arguments.repeats), arguments.rows, name, size)
                cells.append(cell)
                print(line(cell), flush=True)
    slow = [cell for cell in cells if cell["time_over_hand"] > cell["target_over_hand"]]
    beside = [cell for cell in cells if "speed_over_avalanche" in cell]
    late = [cell for cell in beside if cell["speed_over_avalanche"] < cell["target_over_avalanche"]]
    print(f"\ntargets: over the loop by hand, missed by {len(slow)} of {len(cells)}; ", end="")
    print(f"over Avalanche, missed by {len(late)} of {len(beside)}" if version else "Avalanche absent")
    document = {
        "model": sizes,
        "rows": arguments.rows,
        "repeats": arguments.repeats,
        "threads": 1,
        "clock": "CPU time of the process; what an increment's end does is left out",
        "flush_denormal": True,
        "torch": torch.__version__,
        "avalanche": version,
        "cells": cells,
    }
    usual = all(getattr(arguments, name) == parser.get_default(name) for name in vars(arguments))
    out = arguments.out or (RESULTS if usual else None)
    if out:
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
