"""Predict, then learn: rows per second of a logistic regression on a stream of six numbers.

    python -m benchmarks.prequential

One row at a time beside deep-river, which puts PyTorch behind river's interface; and in micro-batches of 64 beside
river's own LogisticRegression, which is not PyTorch and takes a row at a time. All predict each row before they learn
it and count how often they were right; SGD with the same rate, one thread, in turns. Figures are medians over repeats,
of rows per second of CPU time, and of the ratios within a repeat. The bare loop is what PyTorch itself takes for the
same: a forward to predict, a forward, a backward and a step. Ours keeps everything an increment has beside it: a
shuffling generator, an update with the weights, the sum of the losses.

deep-river pins an older torch and river than this project, and runs beside these all the same:

    pip install --no-deps --target PEERS deep-river==0.3.4 river==0.25.0
    PYTHONPATH=PEERS python -m benchmarks.prequential
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.objectives import Binary

RESULTS = Path(__file__).parent / "results" / "prequential.json"
FEATURES, RATE = 6, 0.01
# On the CPU `foreach` is never chosen, and told so, torch need not find that out again at every step.
DESCENT = partial(torch.optim.SGD, foreach=False)
TARGETS = {"deep-river": 3.0, "river": 5.0}

Run = Callable[[], float]


def some_rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, 6) and labels (N,) of a noisy linear rule."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(count, FEATURES)).astype(np.float32)
    rule = draw.normal(size=FEATURES)
    return x, (x @ rule + draw.normal(size=count) > 0).astype(np.float32)


def share_right(found: torch.Tensor, y: np.ndarray) -> float:
    """Counted at the end, so that counting is not what is measured."""
    return float((found.numpy() == (y > 0.5)).mean())


def ours(x: np.ndarray, y: np.ndarray, rows: int) -> float:
    """The share of right predictions, `rows` rows at a time."""
    torch.manual_seed(0)
    learner = Learner(nn.Linear(FEATURES, 1), Binary(), partial(DESCENT, lr=RATE), batch_size=rows)
    stream = Batch(torch.from_numpy(x), torch.from_numpy(y))
    predicted = []
    for arrived in stream.split(rows):
        predicted.append(learner.predict(arrived.inputs))
        learner.learn(arrived)
    return share_right(torch.cat(predicted) > 0.5, y)


def by_hand(x: np.ndarray, y: np.ndarray, rows: int) -> float:
    """The share of right predictions of the loop that one writes."""
    torch.manual_seed(0)
    model = nn.Linear(FEATURES, 1)
    descent = DESCENT(model.parameters(), lr=RATE)
    predicted = []
    pieces = [torch.split(torch.from_numpy(values), rows) for values in (x, y)]
    for inputs, targets in zip(*pieces, strict=True):
        with torch.no_grad():
            predicted.append(model(inputs).squeeze(1).sigmoid())
        loss = F.binary_cross_entropy_with_logits(model(inputs).squeeze(1), targets)
        descent.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        descent.step()
    return share_right(torch.cat(predicted) > 0.5, y)


def deep_river(x: np.ndarray, y: np.ndarray) -> float:
    """The share of right predictions of deep-river's logistic regression."""
    from deep_river.classification import LogisticRegression

    model = LogisticRegression(
        n_features=FEATURES, n_init_classes=2, optimizer_fn=DESCENT, lr=RATE, is_class_incremental=False
    )
    return one_by_one(model, x, y.astype(int))


def river(x: np.ndarray, y: np.ndarray) -> float:
    """The share of right predictions of river's logistic regression."""
    from river.linear_model import LogisticRegression
    from river.optim import SGD

    return one_by_one(LogisticRegression(SGD(RATE)), x, y.astype(bool))


def one_by_one(model: object, x: np.ndarray, y: np.ndarray) -> float:
    """Rows as river's interface takes them: a dict each."""
    rows = [dict(enumerate(row)) for row in x.tolist()]
    right = 0
    for row, label in zip(rows, y.tolist(), strict=True):
        right += model.predict_one(row) == label  # type: ignore[attr-defined]
        model.learn_one(row, label)  # type: ignore[attr-defined]
    return right / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    few, many = some_rows(arguments.rows), some_rows(10 * arguments.rows)
    runs: dict[str, tuple[Run, int]] = {
        "ours, 1 row": (lambda: ours(*few, rows=1), len(few[0])),
        "by hand, 1 row": (lambda: by_hand(*few, rows=1), len(few[0])),
        "deep-river": (lambda: deep_river(*few), len(few[0])),
        "ours, 64 rows": (lambda: ours(*many, rows=64), len(many[0])),
        "by hand, 64 rows": (lambda: by_hand(*many, rows=64), len(many[0])),
        "river": (lambda: river(*many), len(many[0])),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    right = {name: run() for name, (run, _) in runs.items()}  # and warm up
    for _ in range(arguments.repeats):
        for name, (run, rows) in runs.items():
            begun = time.process_time()
            run()
            rates[name].append(rows / (time.process_time() - begun))
    peers = {"ours, 1 row": "deep-river", "by hand, 1 row": "deep-river", "ours, 64 rows": "river"}
    peers["by hand, 64 rows"] = "river"
    ratios = {
        f"{mine} over {peer}": statistics.median(a / b for a, b in zip(rates[mine], rates[peer], strict=True))
        for mine, peer in peers.items()
    }
    print(f"{'':18}{'rows/s of CPU':>15}{'right':>8}")
    for name in runs:
        print(f"{name:18}{statistics.median(rates[name]):15,.0f}{right[name]:8.3f}")
    for name, value in ratios.items():
        print(f"{name}: {value:.1f}, target {TARGETS[name.split(' over ')[1]]:.0f}")
    medians = {name: round(statistics.median(each)) for name, each in rates.items()}
    document = {
        "rows_per_second": medians,
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
        "right": right,
        "targets": TARGETS,
        "threads": 1,
    }
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
