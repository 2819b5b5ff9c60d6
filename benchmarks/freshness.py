"""Keeping a model current, compared with retraining it every day on all past rows: AUC and CPU seconds.

    python -m benchmarks.freshness                          the year of flights, a retraining every tenth day
    python -m benchmarks.freshness --months 3 --every 1     January to March, a retraining every day

Both predict each flight at departure, with the model of the last increment. The stream of `examples/flights/job.toml`
supplies the same encoded rows to both, and January is the warm start of both.

kept current: the learner of the job. Its time includes the warm start, predictions, and the reading and encoding of the
whole stream, rates included.

retrained: on each sampled day the same network, optimiser and batch size, from a new initialisation, in a loop written
by hand: so many passes over all rows whose labels are known. Its time is that of these passes alone; reading and
encoding are free. The sampled days are every n-th day of the stream. The time for all days is the sampled time, times
the number of days over the number of sampled ones: the cost of a retraining is linear in the rows, and the sampled days
are equally spaced. AUC is measured on the flights of the sampled days, for both: the mean over days, by rows, and over
all of these rows together.

Each retraining is kept in a file when it is made (--retrainings), so a run that was killed continues, and further
settings of the model that is kept current (--set) are compared with the same retrainings.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.scores import Scores
from examples.flights.prepare import main as prepare
from incr_core.batch import Batch, cat
from incr_core.data.timeline import Increment
from incr_core.job import Job
from incr_core.metrics import binary_metrics, binary_statistics
from incr_core.models import TableMLP
from incr_core.numerics import settle_arithmetic

RESULTS = Path(__file__).parent / "results" / "freshness.json"
RETRAININGS = Path(tempfile.gettempdir()) / "incr-freshness.json"
FLIGHTS = Path(__file__).parent.parent / "examples" / "flights"


@dataclass(slots=True)
class Day:
    """A day's flights: probabilities by both models, and the ids that find the labels once they are known.

    Attributes:
        name: Name of the increment.
        known: Number of labelled rows before the day.
        row_ids: Of the flights that departed, (n,).
        current: Probabilities by the model that is kept current, (n,).
        retrained: Probabilities by the model retrained on that day, (n,); None if the day is not sampled.
    """

    name: str
    known: int
    row_ids: Tensor
    current: Tensor
    retrained: Tensor | None = None


class KeptCurrent:
    """The learner of the job, increment by increment."""

    def __init__(self, job: Job, width: int) -> None:
        self.learner, self.warm_passes = job.learner_for(width), job.learner.warm_epochs

    def predict(self, rows: Batch) -> Tensor:
        """Probabilities (n,)."""
        return self.learner.predict(rows.inputs)

    def learn(self, increment: Increment) -> None:
        """Learn the rows whose labels became known."""
        learner, rows = self.learner, increment.labelled
        learner.absorb(learner.observe(rows))
        learner.begin(rows, self.warm_passes if increment.tick.warm else None, increment.tick.number)
        learner.advance()
        learner.end(rows)


def retrain(job: Job, width: int, rows: Batch, passes: int, seed: int) -> nn.Module:
    """Train a new network on all rows, in plain torch."""
    model = job.learner_for(width, index=seed).model
    assert isinstance(model, TableMLP)
    assert isinstance(rows.inputs, dict)
    model.moments.add(model.moments.measure(rows.inputs["numeric"]))
    optimizer = torch.optim.AdamW(model.parameters(), **job.learner.optimizer.arguments, fused=True)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(passes):
        order = torch.randperm(len(rows), generator=generator)
        for places in torch.split(order, job.learner.batch_size):
            inputs = {name: values[places] for name, values in rows.inputs.items()}
            loss = F.binary_cross_entropy_with_logits(model(inputs).squeeze(1), rows.targets[places])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


@torch.no_grad()
def answers(model: nn.Module, rows: Batch) -> Tensor:
    """Probabilities (n,)."""
    found: Tensor = model(rows.inputs).squeeze(1).sigmoid()
    return found


def compared(job: Job, settings: list[str], run: dict[str, Any], made: Scores, kept: Scores) -> None:
    """Follow the stream with both, print the comparison and keep it."""
    every, passes = run["every"], run["passes"]
    stream, days, labels = job.data(), list[Day](), dict[int, float]()
    current = KeptCurrent(job.with_settings(settings), stream.numeric_width)
    seconds, known = 0.0, list[Batch]()
    for increment, took in timed(stream.increments()):
        begun = time.process_time()
        if not increment.tick.warm and len(increment.arriving):
            assert increment.arriving.row_ids is not None
            days.append(
                Day(increment.tick.name, sum(map(len, known)), increment.arriving.row_ids,
                    current.predict(increment.arriving))
            )  # fmt: skip
        current.learn(increment)
        seconds += took + time.process_time() - begun
        if days and not increment.tick.warm and (len(days) - 1) % every == every // 2:
            one = {"day": days[-1].name, "passes": passes}
            days[-1].retrained = _retrained(job, stream.numeric_width, cat(known), increment.arriving, one, made)
        known.append(increment.labelled)
        revealed = increment.revealed
        assert revealed.row_ids is not None
        labels.update(zip(revealed.row_ids.tolist(), revealed.targets.tolist(), strict=True))
    kept.add({**run, "set": settings}, show(days, labels, seconds, made, passes))


def _retrained(job: Job, width: int, rows: Batch, arriving: Batch, run: dict[str, Any], kept: Scores) -> Tensor:
    """The predictions of a day by a model retrained for it, made now unless they were made before."""
    found: dict[str, Any] | None = kept.find(run)
    if found is None:
        begun = time.process_time()
        model = retrain(job, width, rows, run["passes"], seed=0)
        spent = time.process_time() - begun
        probabilities = [round(value, 6) for value in answers(model, arriving).tolist()]
        found = {"cpu_seconds": round(spent, 2), "rows": len(rows), "probabilities": probabilities}
        kept.add(run, found)
    return torch.tensor(found["probabilities"])


def timed(increments: Iterator[Increment]) -> Iterator[tuple[Increment, float]]:
    """Each increment, and the CPU seconds of reading and encoding it."""
    while True:
        begun = time.process_time()
        increment = next(increments, None)
        if increment is None:
            return
        yield increment, time.process_time() - begun


def show(days: list[Day], labels: dict[int, float], seconds: float, made: Scores, passes: int) -> dict[str, Any]:
    """Score both on the sampled days, print the figures and return them."""
    sampled = [day for day in days if day.retrained is not None]
    lines = [made.find({"day": day.name, "passes": passes}) or {} for day in sampled]
    spent = sum(line["cpu_seconds"] for line in lines)
    of_all = spent * len(days) / len(sampled)
    scores: dict[str, Any] = {
        "days": len(days), "sampled_days": len(sampled), "cpu_seconds_current": round(seconds, 1),
        "cpu_seconds_retrained": round(of_all, 1), "ratio": round(of_all / seconds, 1),
    }  # fmt: skip
    print(f"\n{'model':<16}{'mean AUC of days':>18}{'AUC':>9}{'CPU s':>10}")
    for name in ("current", "retrained"):
        daily, rows, pooled = [], [], []
        for day in sampled:
            there = torch.tensor([row in labels for row in day.row_ids.tolist()])
            targets = torch.tensor([labels[row] for row in day.row_ids[there].tolist()])
            predicted = getattr(day, name)[there]
            daily.append(auc(predicted, targets))
            rows.append(len(targets))
            pooled.append((predicted, targets))
        mean = float(np.average(daily, weights=rows))
        over_all = auc(*(torch.cat(parts) for parts in zip(*pooled, strict=True)))
        scores |= {f"mean_auc_{name}": round(mean, 4), f"auc_{name}": round(over_all, 4), "rows": sum(rows)}
        print(f"{name:<16}{mean:>18.4f}{over_all:>9.4f}{scores[f'cpu_seconds_{name}']:>10,.1f}")
    print(f"{len(sampled)} of {len(days)} days sampled; ratio of CPU seconds {scores['ratio']}")
    return scores


def auc(predicted: Tensor, targets: Tensor) -> float:
    """The area under the ROC curve."""
    return binary_metrics(binary_statistics(predicted, targets))["auc"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--months", type=int, default=12, choices=[*range(2, 10), 12], help="months to follow")
    parser.add_argument("--every", type=int, default=10, help="days from one retraining to the next")
    parser.add_argument("--passes", type=int, default=4, help="passes of a retraining")
    parser.add_argument("--set", action="append", default=[], help="settings of the learner that is kept current")
    parser.add_argument("--retrainings", type=Path, default=RETRAININGS, help="file of the retrainings that are made")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    settle_arithmetic(1)
    prepare(["--out", str(FLIGHTS / "data")])
    months = "??" if arguments.months > 9 else f"0[1-{arguments.months}]"
    job = Job.read(FLIGHTS / "job.toml", ["baselines={}", f"stream.path={FLIGHTS}/data/2013-{months}-??.parquet"])
    run = {"months": arguments.months, "every": arguments.every, "passes": arguments.passes}
    compared(job, arguments.set, run, Scores(arguments.retrainings, {}), Scores(arguments.out, {}))


if __name__ == "__main__":
    main()
