"""A participant: predict what arrives, score what became known, learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core import metrics, run
from incr_core.data.timeline import Blocks
from incr_core.job import Job
from incr_core.rounds import Arrival, Participant, _participant
from incr_core.storage.packing import pack, unpack


def arrivals(participant: Participant) -> list[Arrival]:
    found = []
    while (arrival := participant.receive()) is not None:
        found.append(arrival)
        participant.begin()
        participant.advance()
    return found


@pytest.mark.slow
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
    parts = [arrivals(job.participant("part", 0, Blocks(index, 2, 64))) for index in range(2)]
    total = metrics.total(arrival.statistics for part in parts for arrival in part)
    whole = metrics.total(arrival.statistics for arrival in arrivals(job.participant()))
    measure = job.objective().metrics
    assert measure(total)["base_rate"] == measure(whole)["base_rate"]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0, 2])
def test_numbers_predicted_before_any_was_seen_are_not_scored(tmp_path: Path, delay: int) -> None:
    """A first increment whose every error is the offset itself would drown the metrics of all others."""
    draw, rows, hour = np.random.default_rng(0), 1000, 3_600_000_000
    x, at = draw.normal(size=rows), np.arange(rows) // 100 * hour
    columns = {"x": x, "y": 1e4 + x, "at": pa.array(at, pa.timestamp("us"))}
    columns["known"] = pa.array(at + delay * hour + hour // 2, pa.timestamp("us"))
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    document = {
        "stream": {"path": str(tmp_path / "rows.parquet"), "predict_at": "at", "label_at": "known", "every": "1h"},
        "features": {"label": "y", "numeric": ["x"]},
        "learner": {"objective": "regression", "epochs": 20},
        "model": {"hidden": [16]},
    }
    summary = run(Job.from_document(document), tmp_path / "run").summary
    scored = pq.read_table(tmp_path / "run" / "metrics")["rows_scored"].to_pylist()
    assert summary.rows_predicted == summary.rows_learned == rows
    assert scored == [0] * (2 * delay + 1) + [100] * (9 - delay)
    assert summary.prequential["r2"] > 0.5


@pytest.mark.parametrize("kept", [0, 1000], ids=["read again", "kept"])
def test_going_back_gives_again_what_was_received_since(
    table: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was kept in memory or was too much for that."""
    monkeypatch.setattr(_participant, "KEPT_ROWS", kept)
    job = Job.from_document(
        {
            "stream": {"path": str(table), "every": 100},
            "features": {"label": "tall", "numeric": ["height", "weight"], "classes": [0, 1]},
            "learner": {"objective": "binary"},
            "strategy": [{"name": "replay", "capacity": 60}],
        }
    ).resolved()
    undisturbed = job.participant()
    expected = [arrival.rows for arrival in arrivals(undisturbed)]

    participant = job.participant()
    participant.keeps_increments = True
    for _ in range(4):
        participant.receive()
        participant.begin()
        participant.advance()
    weights = {name: value.clone() for name, value in participant.learner.weights().items()}
    state = pack(participant.state_dict())
    participant.saved()
    for _ in range(3):
        participant.receive()
        participant.begin()
        participant.advance()
    participant.learner.adopt(weights)
    participant.go_back(unpack(*state))
    again = arrivals(participant)
    assert [arrival.rows.tolist() for arrival in again] == [rows.tolist() for rows in expected[4:]]
    found = participant.learner.weights()
    assert all(torch.equal(value, found[name]) for name, value in undisturbed.learner.weights().items())
