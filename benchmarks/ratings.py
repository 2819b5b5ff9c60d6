"""Ratings and choices, one pass, predicted before they are learned: factorisation and two towers beside simple peers.

    python -m benchmarks.ratings            # three seeds: ten minutes, resumable

Blocks of 500 rows in their order: predict, then learn. The first is not scored. Ratings: MAE and RMSE, of predictions
cut to [1, 5] for all. Choices: recall@10 of the chosen item among all items seen so far, also those that the user has
chosen before; an item not seen before counts as missed. The settings of ours, and the rate of the second BiasedMF, were
chosen on seeds 0 and 7; seeds 100 to 102 are reported.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.ratings_streams import BLOCK, CHOICES, RATINGS, Interactions
from benchmarks.scores import Scores
from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.metrics import Statistics, add, total

RESULTS = Path(__file__).parent / "results" / "ratings.json"
FIRST_SEED = 100
RANK_AMONG = 10


def job_of(path: Path, objective: str, seed: int) -> Job:
    """The job: what the columns are, and which model."""
    model = {"regression": {"kind": "factorisation"}, "ranking": {"kind": "two_towers", "hidden": [], "dimension": 16}}
    learner = {"regression": {}, "ranking": {"batch_size": 64}}
    return Job.from_document(
        {
            "stream": {"path": str(path), "every": BLOCK, "warm_start": BLOCK},
            "features": {"label": "value", "ids": ["user", "item"], "item": ["item"]},
            "model": model[objective],
            "learner": {"objective": objective, "seed": seed, **learner[objective]},
        }
    ).resolved()


def ours(data: Interactions, objective: str, seed: int) -> dict[str, float]:
    """Our job's prequential metrics; predictions cut to [1, 5] as the others' are."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        pq.write_table(pa.table({"user": data.user, "item": data.item, "value": data.value}), path)
        engine, found = LocalEngine(job_of(path, objective, seed), Path(folder)), Statistics()
        engine.start(None)
        wanted = engine.participant.learner.objective
        if objective == "regression":
            plain = wanted.predict
            wanted.predict = lambda output: plain(output).clamp(1.0, 5.0)  # type: ignore[method-assign]
        begun = time.process_time()
        while arrivals := engine.receive():
            found = add(found, total(arrival.statistics for arrival in arrivals))
            engine.learn(arrivals)
        seconds = time.process_time() - begun
        engine.close()
    metrics = wanted.metrics(found)
    names = ("mae", "rmse") if objective == "regression" else ("recall@10", "ndcg@10", "popularity recall@10")
    return {**{name: metrics[name] for name in names}, "seconds": seconds}


class RunningMeans:
    """The mean of all, and by how much those of a user and of an item differ from it."""

    def __init__(self) -> None:
        self.all = [0.0, 0]
        self.of: tuple[dict[int, list[float]], dict[int, list[float]]] = ({}, {})

    def predict_one(self, user: int, item: int) -> float:
        """A rating."""
        mean = self.all[0] / self.all[1]
        found = [table.get(key) for table, key in zip(self.of, (user, item), strict=True)]
        return mean + sum(total_ / count - mean for total_, count in filter(None, found))

    def learn_one(self, user: int, item: int, value: float) -> None:
        """Take a rating in."""
        self.all = [self.all[0] + value, self.all[1] + 1]
        for table, key in zip(self.of, (user, item), strict=True):
            before = table.get(key, [0.0, 0])
            table[key] = [before[0] + value, before[1] + 1]


def biased_mf(rate: float | None = None) -> Any:
    """river's, with its defaults or another rate."""
    from river import optim, reco

    if rate is None:
        return reco.BiasedMF(seed=0)
    return reco.BiasedMF(seed=0, bias_optimizer=optim.SGD(rate), latent_optimizer=optim.SGD(rate))


def funk_mf() -> Any:
    """river's, as its documentation has it: without biases it must begin at the spread of ratings."""
    from river import optim, reco

    return reco.FunkMF(
        n_factors=10,
        optimizer=optim.SGD(0.025),
        l2=0.1,
        initializer=optim.initializers.Normal(mu=0.0, sigma=0.1, seed=0),
    )


PEERS: dict[str, Callable[[], Any]] = {
    "running means": RunningMeans,
    "river BiasedMF": biased_mf,
    "river BiasedMF, 0.05": lambda: biased_mf(0.05),
    "river FunkMF": funk_mf,
}


def of_peer(data: Interactions, make: Callable[[], Any]) -> dict[str, float]:
    """MAE and RMSE of a model that takes a row at a time."""
    model, predicted = make(), np.empty(len(data))
    rows = list(zip(data.user.tolist(), data.item.tolist(), data.value.tolist(), strict=True))
    begun = time.process_time()
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        if start:
            predicted[start : start + len(block)] = [model.predict_one(user, item) for user, item, _ in block]
        for user, item, value in block:
            model.learn_one(user, item, value)
    seconds = time.process_time() - begun
    wrong = np.clip(predicted, 1, 5)[BLOCK:] - data.value[BLOCK:]
    return {"mae": float(np.abs(wrong).mean()), "rmse": float((wrong**2).mean() ** 0.5), "seconds": seconds}


def by_popularity(data: Interactions, window: int) -> dict[str, float]:
    """Recall@10 of the items chosen most in the last `window` rows, of all where it is 0."""
    hits = 0
    begun = time.process_time()
    for start in range(BLOCK, len(data), BLOCK):
        first = max(0, start - window) if window else 0
        best = {item for item, _ in Counter(data.item[first:start].tolist()).most_common(RANK_AMONG)}
        hits += sum(item in best for item in data.item[start : start + BLOCK].tolist())
    return {"recall@10": hits / (len(data) - BLOCK), "seconds": time.process_time() - begun}


def learned(stream: str, by: str, seed: int) -> dict[str, float]:
    """The scores of one, on a stream."""
    data = (RATINGS | CHOICES)[stream](seed)
    if by == "ours":
        return ours(data, "regression" if stream in RATINGS else "ranking", seed)
    if stream in RATINGS:
        return of_peer(data, PEERS[by])
    return by_popularity(data, 5000 if by == "popular lately" else 0)


def show(scores: Scores, seeds: range, streams: dict[str, Any], names: list[str], figures: list[str]) -> None:
    """A line for each stream and figure: the mean over the seeds, and CPU seconds."""
    print(f"{'':28}" + "".join(f"{name:>22}" for name in names))
    for stream in streams:
        for figure in figures:
            cells = []
            for name in names:
                found = [scores.find({"stream": stream, "by": name, "seed": seed}) for seed in seeds]
                values = [line[figure] for line in found if line is not None]
                cells.append(f"{statistics.mean(values):22.4f}" if values else f"{'':22}")
            print(f"{stream + ', ' + figure:28}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=FIRST_SEED, help="the first seed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scores, seeds = Scores(arguments.out, {}), range(arguments.first, arguments.first + arguments.seeds)
    of_ratings, of_choices = ["ours", *PEERS], ["ours", "popular", "popular lately"]
    for seed in seeds:
        for streams, names in ((RATINGS, of_ratings), (CHOICES, of_choices)):
            for stream in streams:
                for name in names:
                    run = {"stream": stream, "by": name, "seed": seed}
                    if scores.find(run) is None:
                        found = learned(stream, name, seed)
                        scores.add(run, {key: round(value, 5) for key, value in found.items()})
    show(scores, seeds, RATINGS, of_ratings, ["mae", "rmse", "seconds"])
    show(scores, seeds, CHOICES, of_choices, ["recall@10", "seconds"])


if __name__ == "__main__":
    main()
