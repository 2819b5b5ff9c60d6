"""The exchange of one round while the next is learned equals a mean that comes a round late."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pytest
import torch
from torch import Tensor

from cluster._exchange import ReplicaExchange
from cluster._rank import Rank
from cluster._worker import partition_of
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.numerics import settle_arithmetic
from incr_core.registry import RunDirectory
from incr_core.rounds import Participant, total_observed
from incr_core.rounds._delayed_mean import DelayedMean
from incr_core.runs import compare
from incr_core.storage import model_sha256
from incr_core.update import Update, Weights, mean
from tests.support.cluster_runs import learned_on_cluster, run
from tests.support.exchanges import in_each

pytestmark = [pytest.mark.ray]

REPLAY = {"name": "replay", "capacity": 60, "ratio": 1.0}


def test_by_hand() -> None:
    # Two replicas, whose steps go half of the way to 0 and to 8. All begin at 16.
    #   round 1   16 -> 8, 16 -> 12                   they learn -8 and -4, of which the mean, -6, comes after round 2
    #   round 2    8 -> 4, 12 -> 10                   -4 and -2: they stand at 16 - 6 - 4 = 6, and at 8
    #   round 3    6 -> 3,  8 -> 8                    -3 and 0: they stand at 10 - 3 - 3 = 4, and at 7
    #   and last 7 - 1.5
    def learn(exchange: ReplicaExchange) -> list[float]:
        weights, seen = {"w": torch.tensor([16.0])}, list[float]()
        delayed = DelayedMean(
            lambda: weights, lambda own, base: exchange.mean(own, base, {}), lambda base, merged: merged
        )
        for _ in range(3):
            weights["w"] += 0.5 * (8.0 * exchange.rank - weights["w"])
            delayed.land()
            seen.append(weights["w"].item())
            delayed.launch(rows=5)
        delayed.land()
        delayed.close()
        return [*seen, weights["w"].item()]

    assert in_each(2, learn) == [[8.0, 6.0, 4.0, 5.5], [12.0, 8.0, 7.0, 5.5]]


def job_of(small_job: Callable[..., Job], *settings: str) -> Job:
    return small_job(
        "cluster.overlap=true",
        "cluster.average_every=1",
        "model.dropout=0.1",
        "outer={name='nesterov', lr=0.7, momentum=0.5}",
        *settings,
        strategy=[REPLAY],
    )


def one_after_the_other(job: Job) -> Weights:
    """What two replicas come to by the law, in this process."""
    settle_arithmetic(1)
    outer = job.outer_step()
    both = [job.participant(f"replica-{rank}", rank, partition_of(job, Rank(rank, 2, 0, 1))) for rank in range(2)]
    while None not in (arrivals := [one.receive() for one in both]):
        observed = total_observed([arrival for arrival in arrivals if arrival is not None])
        for one in both:
            one.learner.absorb(observed)
        take_rounds(both, outer.step)
    return both[0].learner.weights()


def take_rounds(both: list[Participant], step: Callable[..., Weights]) -> None:
    rules, weights = both[0].learner.rules(), [one.learner.weights() for one in both]
    steered = [name for name in weights[0] if name.removeprefix("model.") in both[0].learner.context.names]
    first = {name: value.clone() for name, value in weights[0].items()}
    base: Weights = {name: first[name].clone() for name in steered}
    sent: list[Update] = []
    for number in range(max(one.learner.steps_in(len(one.increment.labelled)) for one in both if one.increment)):
        begun = [{name: own[name].clone() for name in steered} for own in weights]
        for one in both if number == 0 else ():
            one.begin()
        learned = [one.advance(1) for one in both]
        if sent:
            base = step(base, mean(sent, base, rules), rules)
            for own, start in zip(weights, begun, strict=True):
                for name in steered:
                    own[name].copy_((own[name] - start[name]) + base[name])
        sent = [
            Update({name: own[name].clone() for name in steered}, update.num_rows)
            for own, update in zip(weights, learned, strict=True)
        ]
    base = step(base, mean(sent, base, rules), rules)
    others = [
        Update({name: own[name] for name in own if name not in steered}, len(one.increment.labelled))
        for own, one in zip(weights, both, strict=True)
        if one.increment
    ]
    merged: dict[str, Tensor] = base | step(first, mean(others, first, rules), rules)
    for own in weights:
        for name, value in own.items():
            value.copy_(merged[name].clone())


@pytest.mark.usefixtures("ray_session")
def test_overlapping_rounds_are_delayed_means(small_job: Callable[..., Job], tmp_path: Path) -> None:
    job = job_of(small_job)
    found = learned_on_cluster(job, tmp_path)
    assert found.sha256 == model_sha256(one_after_the_other(job))
    assert all(done.seconds_hidden >= 0 for done in found.rounds)


def seconds_of_work(path: Path) -> float:
    table = RunDirectory.open(path).table("metrics")
    kinds = ("predicting", "learning", "exchanging")
    return sum(float(pc.sum(table[f"seconds_{kind}"]).as_py()) for kind in kinds)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.chaos
def test_law_1_a_resumed_run_equals_an_uninterrupted_one(small_job: Callable[..., Job], tmp_path: Path) -> None:
    job = job_of(small_job, "cluster.wire=int8")
    whole = run(job, tmp_path / "whole")
    run(job, tmp_path / "parts", increments=2)
    assert run(job, tmp_path / "parts") == whole
    hidden = RunDirectory.open(tmp_path / "whole").table("metrics")["seconds_hidden"].to_pylist()
    assert any(hidden), "some of the exchanges are hidden"
    compared = compare([tmp_path / "whole", tmp_path / "parts"]).runs  # what was hidden is no work of its own
    assert [one.rows_per_second for one in compared] == [
        one.rows_learned / seconds_of_work(Path(one.path)) for one in compared
    ]


def test_one_exchange_an_increment_hides_nothing(small_job: Callable[..., Job]) -> None:
    with pytest.raises(JobError, match=r"cluster.overlap: expected several exchanges in an increment"):
        small_job("cluster.overlap=true")
