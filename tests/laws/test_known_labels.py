"""Law 7: no prediction depends on a label that was not yet known at its prediction time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from incr_core.job import Job
from incr_core.rounds import PendingPredictions, total_observed

pytestmark = pytest.mark.slow

MOMENT = np.datetime64("2013-01-05T15:30", "s")


@pytest.mark.parametrize("every", ["6h", "1h"])
def test_scrambling_labels_not_yet_known_changes_no_earlier_prediction(
    flights: Path, flights_job: Callable[..., Job], tmp_path: Path, every: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scrambled = tmp_path / "scrambled"
    scrambled.mkdir()
    changed = 0
    for path in sorted(flights.glob("*.parquet")):
        table = pq.read_table(path)
        unknown = table["label_at"].to_numpy().astype("datetime64[s]") >= MOMENT
        late = np.where(unknown, 1 - table["late"].to_numpy(), table["late"].to_numpy())
        changed += int(unknown.sum())
        table = table.set_column(table.column_names.index("late"), "late", pa.array(late, pa.int8()))
        unseen = table["departed_at"].to_numpy().astype("datetime64[s]") >= MOMENT
        delay = pa.array(np.where(unseen, 90.0, table["departure_delay"].to_numpy()), pa.float32())
        table = table.set_column(table.column_names.index("departure_delay"), "departure_delay", delay)
        pq.write_table(table, scrambled / path.name)
    assert changed > 1000

    before = predictions(flights_job(f'stream.every="{every}"'), monkeypatch)
    after = predictions(flights_job(f'stream.every="{every}"', f'stream.path="{scrambled}"'), monkeypatch)
    assert before.keys() == after.keys()
    known = at_times(flights)
    earlier = [row for row in before if known[row] < MOMENT]
    assert len(earlier) > 1000
    assert all(before[row] == after[row] for row in earlier)
    later = [row for row in before if known[row] >= MOMENT + np.timedelta64(1, "D")]
    assert any(before[row] != after[row] for row in later), "scrambled labels must matter once they are learned"


def predictions(job: Job, monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Every prediction a run makes, by row id."""
    made: dict[int, float] = {}
    add = PendingPredictions.add

    def noting(self: PendingPredictions, rows: Tensor, predicted: Tensor) -> None:
        made.update(zip(rows.tolist(), predicted.tolist(), strict=True))
        add(self, rows, predicted)

    monkeypatch.setattr(PendingPredictions, "add", noting)
    participant = job.participant()
    while (arrival := participant.receive()) is not None:
        if arrival.labelled:
            participant.learner.absorb(total_observed([arrival]))
            participant.begin()
            participant.advance()
    monkeypatch.undo()
    return made


def at_times(flights: Path) -> dict[int, np.datetime64]:
    """The prediction time of every row id."""
    times: dict[int, np.datetime64] = {}
    for number, path in enumerate(sorted(flights.glob("*.parquet"))):
        column = pq.read_table(path, columns=["predict_at"])["predict_at"].to_numpy().astype("datetime64[s]")
        ids = (torch.arange(len(column)) + (number << 40)).tolist()
        times.update(zip(ids, column, strict=True))
    return times
