"""Plain tables in one pass, predicted before they are learned: the default job beside common first choices.

    python -m benchmarks.tables                     # all streams, three seeds: about an hour, resumable
    python -m benchmarks.tables --seeds 1 --quick   # minutes: without the forest

Blocks of 100 rows in their order: predict, then learn. The first block is not scored, because no model has learned
then. Metrics are AUC for two classes, accuracy for several, and mean absolute error for numbers. No arm is tuned. CPU
seconds are those of learning and predicting, for incr without commits.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.scores import Scores
from benchmarks.table_peers import PEERS
from benchmarks.table_streams import BLOCK, STREAMS, Table
from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.metrics import Statistics, add, total

RESULTS = Path(__file__).parent / "results" / "tables.json"
OURS: dict[str, dict[str, Any]] = {
    "ours, auto": {
        "model": {"kind": "auto"},
        "learner": {"epochs": "auto"},
        "strategy": [{"name": "replay", "capacity": 500, "memory": "window"}],
    },
    "ours, mlp": {},
}
"""What the job says besides where the rows are and what to predict."""
HAND = "MLP by hand"
METRICS = {"binary": "auc", "multiclass": "accuracy", "regression": "mae"}


def learned_by_ours(table: Table, seed: int, settings: dict[str, Any]) -> tuple[float, float]:
    """The figure of the job of a few lines, and its CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table(table.columns()), Path(folder) / "table.parquet")
        job = Job.from_document(
            {
                "stream": {"path": f"{folder}/table.parquet", "every": BLOCK, "warm_start": BLOCK},
                "features": {"label": "y"},
                **{name: value for name, value in settings.items() if name != "learner"},
                "learner": {"objective": table.objective, "seed": seed, **settings.get("learner", {})},
            }
        ).resolved()
        engine, found = LocalEngine(job, Path(folder)), Statistics()
        engine.start(None)
        begun = time.process_time()
        while arrivals := engine.receive():
            found = add(found, total(arrival.statistics for arrival in arrivals))
            engine.learn(arrivals)
        seconds = time.process_time() - begun
        engine.close()
    return engine.participant.learner.objective.metrics(found)[METRICS[table.objective]], seconds


def learned_by(peer: str, table: Table, seed: int) -> tuple[float, float]:
    """The figure of somebody else, and its CPU seconds."""
    begun = time.process_time()
    model, predictions = PEERS[peer](table, seed), []
    for start in range(0, len(table), BLOCK):
        rows = slice(start, start + BLOCK)
        if start:
            predictions.append(model.predict(rows))
        model.learn(rows)
    seconds = time.process_time() - begun
    return figure(table, np.concatenate(predictions)), seconds


def figure(table: Table, predicted: Any) -> float:
    """AUC, accuracy or mean absolute error of the predictions for all rows behind the first block."""
    from sklearn.metrics import roc_auc_score

    y = table.target[BLOCK:]
    if table.objective == "binary":
        return float(roc_auc_score(y, predicted))
    if table.objective == "multiclass":
        return float((predicted.argmax(1) == y).mean())
    return float(np.abs(predicted - y).mean())


def show(scores: Scores, names: Sequence[str], seeds: int) -> None:
    """A line a stream: the mean of each, the best marked, ours beside the best of the others; then ranks and costs."""
    print(f"{'':20}" + "".join(f"{name.replace('by hand, ', '')[:13]:>14}" for name in names))
    ranks: dict[str, list[float]] = {name: [] for name in names}
    costs: dict[str, list[float]] = {name: [] for name in names}
    for stream in STREAMS:
        found = {
            name: [
                line
                for seed in range(seeds)
                if (line := scores.find({"stream": stream, "by": name, "seed": seed})) is not None
            ]
            for name in names
        }
        if not all(found.values()):
            continue
        means = {name: statistics.mean(line["figure"] for line in lines) for name, lines in found.items()}
        less = next(iter(found.values()))[0]["less_is_better"]
        order = sorted(names, key=lambda name: means[name] if less else -means[name])
        for name in names:
            ranks[name].append(order.index(name) + 1)
            costs[name].append(
                statistics.mean(line["seconds"] for line in found[name])
                / statistics.mean(line["seconds"] for line in found[HAND])
            )
        cells = (f"{means[name]:12.4g}{'*' if name == order[0] else ' '} " for name in names)
        print(f"{stream:20}" + "".join(cells))
    if ranks[names[0]]:
        print(f"{'mean rank':20}" + "".join(f"{statistics.mean(ranks[name]):12.2f}  " for name in names))
        print(f"{'CPU / by hand':20}" + "".join(f"{statistics.median(costs[name]):12.1f}  " for name in names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="without river's forest, which takes most of the time")
    parser.add_argument("--streams", nargs="*", default=list(STREAMS))
    parser.add_argument("--by", nargs="*", help="only these, of ours and the others")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = arguments.by or [name for name in (*OURS, *PEERS) if not (arguments.quick and name == "river ARF")]
    scores = Scores(arguments.out, {})
    for seed in range(arguments.seeds):
        for stream in arguments.streams:
            wanted = [name for name in names if scores.find({"stream": stream, "by": name, "seed": seed}) is None]
            table = STREAMS[stream](seed) if wanted else None
            for name in wanted:
                assert table is not None
                if name in OURS:
                    value, seconds = learned_by_ours(table, seed, OURS[name])
                else:
                    value, seconds = learned_by(name, table, seed)
                run = {"stream": stream, "by": name, "seed": seed}
                less = float(table.objective == "regression")
                scores.add(run, {"figure": round(value, 5), "seconds": round(seconds, 2), "less_is_better": less})
    show(scores, names, arguments.seeds)


if __name__ == "__main__":
    main()
