"""Fragments that are exchanged in turn equal their law: each is averaged once in P rounds, over the rows since."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cluster._rank import Rank
from cluster._worker import partition_of
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.numerics import settle_arithmetic
from incr_core.rounds import Participant, total_observed
from incr_core.rounds._fragments import Fragments, fragments_of
from incr_core.storage import model_sha256
from incr_core.update import Update, Weights, mean
from tests.support.cluster_runs import farthest, learned_on_cluster, rows_learned, run
from tests.support.exchanges import in_each

pytestmark = [pytest.mark.ray]

REPLAY = {"name": "replay", "capacity": 60, "ratio": 1.0}


def test_by_hand() -> None:
    # Two replicas, whose steps go half of the way to 0 and to 8, of two weights that begin at 16; `a` is sent first.
    #   round 1   a 8 and 12, of which the mean is 10      b 8 and 12
    #   round 2   a 5 and 9                                b 4 and 10: 7
    #   round 3   a 2.5 and 8.5, and the last: 5.5         b 3.5 and 7.5: 5.5
    def learn(exchange: object) -> list[list[float]]:
        weights, seen = {"a": torch.tensor([16.0]), "b": torch.tensor([16.0])}, []
        fragments = Fragments(
            lambda: weights,
            [["a"], ["b"]],
            lambda own, base: exchange.mean(own, base, {}),  # type: ignore[attr-defined]
            lambda base, merged: merged,
        )
        for number in range(3):
            for value in weights.values():
                value += 0.5 * (8.0 * exchange.rank - value)  # type: ignore[attr-defined]
            fragments.learned(5, last=number == 2)
            seen.append([value.item() for value in weights.values()])
        return seen

    assert in_each(2, learn) == [
        [[10.0, 8.0], [5.0, 7.0], [5.5, 5.5]],
        [[10.0, 12.0], [9.0, 7.0], [5.5, 5.5]],
    ]


@pytest.mark.parametrize("count", range(1, 9))
def test_each_weight_is_in_one_fragment_with_its_neighbours(count: int) -> None:
    sizes = {str(number): size for number, size in enumerate([400, 1, 1, 100, 300, 1, 200])}
    found = fragments_of(sizes, count)
    assert [name for group in found for name in group] == list(sizes)
    assert len(found) <= count
    assert max(sum(sizes[name] for name in group) for group in found) <= max(400, 2 * 1003 / count)


def job_of(small_job: Callable[..., Job], *settings: str) -> Job:
    return small_job(
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
        take_rounds(both, job.cluster.fragments, outer.step)
    return both[0].learner.weights()


def take_rounds(both: list[Participant], count: int, step: Callable[..., Weights]) -> None:
    rules, live = both[0].learner.rules(), [one.learner.weights() for one in both]
    steered = {name: live[0][name].nbytes for name in live[0] if name.removeprefix("model.") in names_of(both[0])}
    groups = fragments_of(steered, count)
    first = {name: value.clone() for name, value in live[0].items()}
    base, since = dict(first), [[0] * len(groups) for _ in both]
    rounds = max(one.learner.steps_in(len(one.increment.labelled)) for one in both if one.increment)
    for number in range(rounds):
        for one in both if number == 0 else ():
            one.begin()
        for replica, one in enumerate(both):
            rows = one.advance(1).num_rows
            since[replica] = [before + rows for before in since[replica]]
        for turn in range(len(groups)) if number == rounds - 1 else [number % len(groups)]:
            exchanged = [
                Update({name: own[name].clone() for name in groups[turn]}, rows[turn])
                for own, rows in zip(live, since, strict=True)
            ]
            base |= step(base, mean(exchanged, base, rules), rules)
            take(live, {name: base[name] for name in groups[turn]})
            for own_rows in since:
                own_rows[turn] = 0
    others = [
        Update({name: own[name] for name in own if name not in steered}, len(one.increment.labelled))
        for own, one in zip(live, both, strict=True)
        if one.increment
    ]
    take(live, step(first, mean(others, first, rules), rules))


def names_of(one: Participant) -> list[str]:
    return one.learner.context.names


def take(live: list[Weights], merged: Mapping[str, Tensor]) -> None:
    for own in live:
        for name, value in merged.items():
            own[name].copy_(value.clone())


@pytest.mark.usefixtures("ray_session")
def test_fragments_are_exchanged_in_turn(small_job: Callable[..., Job], tmp_path: Path) -> None:
    job = job_of(small_job, "cluster.fragments=3")
    found = learned_on_cluster(job, tmp_path)
    assert found.sha256 == model_sha256(one_after_the_other(job))
    # Of 100 rows each replica takes 4 steps: three thirds, and all of them at the end, are half of four wholes.
    sent = [done.bytes_exchanged for done in found.rounds[:-1]]
    model = sum(value.nbytes for value in found.weights.values())
    assert max(sent) < 1.5 * 2 * 2 * model


@pytest.mark.chaos
@pytest.mark.usefixtures("ray_session")
def test_law_1_and_rounding_and_shards(small_job: Callable[..., Job], tmp_path: Path) -> None:
    job = job_of(small_job, "cluster.fragments=2", "cluster.wire=int8")
    whole = run(job, tmp_path / "whole")
    run(job, tmp_path / "parts", increments=2)
    assert run(job, tmp_path / "parts") == whole
    assert rows_learned(tmp_path / "parts") == list(range(470))
    alone = learned_on_cluster(job_of(small_job, "cluster.fragments=2", "model.dropout=0"), tmp_path)
    shards = learned_on_cluster(
        job_of(small_job, "cluster.fragments=2", "model.dropout=0", "cluster.shards=2"), tmp_path
    )
    assert farthest(shards, alone) < 1e-5


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["cluster.fragments=2"], r"cluster.fragments: expected several exchanges in an increment, .* got 2 and"),
        (
            ["cluster.fragments=2", "cluster.average_every=1", "cluster.overlap=true"],
            r"cluster.fragments: expected 1 with overlap = true, got 2",
        ),
    ],
)
def test_fragments_without_turns_are_refused(settings: list[str], told: str, small_job: Callable[..., Job]) -> None:
    with pytest.raises(JobError, match=told):
        small_job(*settings)
