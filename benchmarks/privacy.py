"""What differential privacy costs: AUC of flights under central, local and sample-level promises, beside none.

    python -m benchmarks.privacy                                   all of it; what is in the file is not measured again
    python -m benchmarks.privacy --only central --epsilons 8 --clips 0.1 0.3 1.0

Clients are flight numbers of January to April 2013, by a hash; an increment is ten days, whose flights are predicted
before they are learned. The noise of each promise is the least with which its epsilon lasts for the whole stream, at
delta = 1e-5: a run that stops halfway would compare numbers of rows. What is measured is the AUC of all predictions, of
which private clients tell here (`metrics = true`), as no owner must.

Promises: central, a client in every model (a quarter of the clients in each of an increment's four rounds, by Poisson
sampling); local, a client in its own update; rows, a row of every increment (DP-SGD).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import incr_core
from cluster.session import Session
from examples.flights import prepare
from incr_core.job import Job
from incr_core.privacy import Accountant

RESULTS = Path(__file__).parent / "results" / "privacy.json"
DELTA = 1e-5
CLIENTS, FRACTION, ROUNDS, INCREMENTS = 400, 0.25, 4, 12
RANGES = {"minute_of_day": [0, 1440], "distance": [0, 5000], "duration": [0, 720], "temp": [0, 110]}
RANGES |= {"humid": [0, 100], "wind_speed": [0, 60], "precip": [0, 1.5], "pressure": [980, 1050], "visib": [0, 10]}
CLIPS = {"central": 0.3, "local": 0.3, "rows": 1.0}
RATE = 0.1


def noise_for(epsilon: float, steps: int, sampled: float) -> float:
    """The least noise, to a hundredth, with which so many steps stay within a budget.

    >>> noise_for(8.0, 12, 1.0) > noise_for(8.0, 12, 0.25)
    True
    """
    noise = 0.3
    while True:
        spent = Accountant()
        spent.add(noise, sampled, steps)
        if spent.epsilon(DELTA) <= epsilon:
            return round(noise, 2)
        noise += 0.01


def flights(folder: Path) -> Path:
    """January to April, in the order of departure, one file."""
    path = folder / "flights.parquet"
    if not path.exists():
        table = prepare.rows()
        table = table.filter(pc.less(table["month"], 5))
        keep = ["predict_at", "late", "carrier", "flight", "origin", "dest", "hour", "weekday", *RANGES]
        numbers = pa.array(
            [f"{a} {b}" for a, b in zip(*(table[k].to_pylist() for k in ("carrier", "flight")), strict=True)]
        )
        pq.write_table(table.select(keep).append_column("number", numbers), path)
    return path


def job_of(path: Path, promise: str, epsilon: float, clip: float) -> Job:
    """The job of a promise; "none" and "none, sampled" are those of local and central without any."""
    sampled = promise in ("central", "none, sampled")
    federated: dict[str, Any] = {"clients": f"hash:number:{CLIENTS}", "workers": 1}
    if sampled:
        federated |= {"fraction": FRACTION, "rounds": ROUNDS}
    if promise == "central":
        noise = noise_for(epsilon, ROUNDS * INCREMENTS, FRACTION)
        federated["privacy"] = {"epsilon": epsilon, "delta": DELTA, "noise": noise, "clip": clip}
    elif promise in ("local", "rows"):
        unit, noise = ("client" if promise == "local" else "rows"), noise_for(epsilon, INCREMENTS, 1.0)
        told = {"epsilon": epsilon, "delta": DELTA, "noise": noise, "clip": clip, "unit": unit, "metrics": True}
        federated["client_privacy"] = told
    document = {
        "name": "privacy",
        "stream": {"path": str(path), "predict_at": "predict_at", "every": "10d"},
        "features": {
            "label": "late",
            "numeric": list(RANGES),
            "categorical": ["carrier", "origin", "dest", "hour", "weekday"],
            "buckets": 64,
            "classes": [0, 1],
            "ranges": RANGES,
        },
        "model": {"hidden": [16], "embedding": 4},
        "learner": {"objective": "binary", "batch_size": 32, "optimizer": {"name": "sgd", "lr": RATE}},
        "federated": federated,
        "publish": {"every": 6, "keep": 1},
    }
    return Job.from_document(document).resolved()


def measured(path: Path, promise: str, epsilon: float, clip: float) -> dict[str, float]:
    """The AUC of a run's predictions, the noise, and what was spent."""
    folder = Path(tempfile.mkdtemp())
    try:
        job = job_of(path, promise, epsilon, clip)
        summary = incr_core.run(job, folder / "run", on="federated").summary
    finally:
        shutil.rmtree(folder)
    wanted = job.federated.privacy or job.federated.client_privacy
    return {
        "auc": round(summary.prequential["auc"], 4),
        "rows_learned": summary.rows_learned,
        **({} if wanted is None else {"noise": wanted.noise}),
    }


def wanted_of(
    only: Sequence[str], epsilons: Sequence[float], clips: Sequence[float]
) -> Iterator[tuple[str, float, float]]:
    """The runs to make: promise, epsilon, clip."""
    for promise in only:
        if promise.startswith("none"):
            yield promise, math.inf, math.inf
            continue
        for epsilon in epsilons:
            for clip in clips or [CLIPS[promise]]:
                yield promise, epsilon, clip


def main() -> None:
    """Measure what is asked for and not there yet; print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = ["none, sampled", "none", "central", "local", "rows"]
    parser.add_argument("--only", nargs="+", default=everything, choices=everything)
    parser.add_argument("--epsilons", nargs="+", type=float, default=[2.0, 4.0, 8.0])
    parser.add_argument("--clips", nargs="+", type=float, default=[])
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    path, session = flights(options.data), Session("local", 1)
    try:
        for promise, epsilon, clip in wanted_of(options.only, options.epsilons, options.clips):
            key = promise if promise.startswith("none") else f"{promise}, epsilon {epsilon:g}, clip {clip:g}"
            if key not in found:
                found[key] = measured(path, promise, epsilon, clip)
                options.out.parent.mkdir(exist_ok=True)
                options.out.write_text(json.dumps(found, indent=1) + "\n")
            print(key, found[key], flush=True)
    finally:
        session.close()


if __name__ == "__main__":
    main()
