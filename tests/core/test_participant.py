"""A participant: predict what arrives, score what became known, learn."""

from __future__ import annotations

from collections.abc import Callable

import torch

from incr_core import metrics
from incr_core.job import Job
from incr_core.participant import Arrival, Participant
from incr_core.partition import Blocks


def arrivals(participant: Participant) -> list[Arrival]:
    found = []
    while (arrival := participant.receive()) is not None:
        found.append(arrival)
        participant.begin()
        participant.advance()
    return found


def test_each_prediction_is_scored_once_also_where_another_replica_learns_the_row(
    flights_job: Callable[..., Job],
) -> None:
    job = flights_job()
    whole = arrivals(job.participant())
    parts = [arrivals(job.participant("part", 0, Blocks(index, 2, 64))) for index in range(2)]
    assert [len(part) for part in parts] == [len(whole)] * 2
    for together, *apart in zip(whole, *parts, strict=True):
        assert sum(arrival.predicted for arrival in apart) == together.predicted
        assert sum(arrival.scored for arrival in apart) == together.scored
        rows = torch.cat([arrival.rows for arrival in apart])
        assert torch.equal(rows.sort().values, together.rows.sort().values)
    assert sum(arrival.scored for arrival in whole) == sum(arrival.predicted for arrival in whole) > 1000


def test_statistics_of_parts_add_up_to_the_base_rate_of_all_rows(flights_job: Callable[..., Job]) -> None:
    job = flights_job()
    total: metrics.Statistics = {}
    for index in range(2):
        for arrival in arrivals(job.participant("part", 0, Blocks(index, 2, 64))):
            total = metrics.add(total, arrival.statistics)
    whole: metrics.Statistics = {}
    for arrival in arrivals(job.participant()):
        whole = metrics.add(whole, arrival.statistics)
    measure = job.objective().metrics
    assert measure(total)["base_rate"] == measure(whole)["base_rate"]
