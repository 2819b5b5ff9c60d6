"""Law 6 in its full form: every row of the stream is in exactly one state, and the files and the ledger prove it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.commands.audit import audit
from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.runs import erase, run
from tests.support.federated_runs import finish
from tests.support.row_states import counts, mixed, told

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("ticks", [1, 2, 3])
def test_every_row_is_in_one_state_wherever_a_run_stops(tmp_path: Path, ticks: int) -> None:
    job = Job.from_document(mixed(tmp_path / "data"))
    finish(job, tmp_path / "run", LocalEngine, stop_after=ticks)
    found = audit(tmp_path / "run")
    assert found.violations == []
    expected = counts(tmp_path / "data", ticks)
    assert told(found.document()) == expected
    assert sum(expected.values()) == found.states.rows == 100
    assert (expected["not reached yet"] > 0) == (ticks < 3)
    assert expected["waiting for their labels"] > 0 or ticks == 3


def test_every_row_is_in_one_state_at_the_end_and_after_more_files(tmp_path: Path) -> None:
    job = Job.from_document(mixed(tmp_path / "data"))
    run(job, tmp_path / "run")
    whole = counts(tmp_path / "data", 99)
    assert told(audit(tmp_path / "run").document()) == whole
    late = pq.read_table(tmp_path / "data" / "part-0.parquet", columns=["at", "known", "x", "carrier", "late", "n"])
    late = late.append_column("id", pa.array(range(1000, 1030)))
    pq.write_table(late, tmp_path / "data" / "part-9.parquet")
    found = audit(tmp_path / "run")
    assert (found.violations, found.states.pending["not reached yet"]) == ([], 30)
    run(job, tmp_path / "run")
    found = audit(tmp_path / "run")
    assert (found.violations, found.states.rows) == ([], 130)
    assert found.states.states["learned"] == whole["learned"] + 27  # three of the thirty had no label
    assert found.states.pending["without a label"] == whole["without a label"] + 3


def test_erased_wins_over_learned_and_leaves_the_ledger_as_it_is(tmp_path: Path) -> None:
    job = Job.from_document(mixed(tmp_path / "data"))
    run(job, tmp_path / "run")
    before = audit(tmp_path / "run").states
    erase(tmp_path / "run", pa.table({"fragment": ["part-0.parquet"] * 3, "offset": [1, 2, 999]}))
    found = audit(tmp_path / "run")
    assert found.violations == []
    assert found.states.rows == before.rows
    assert found.states.states == before.states | {"learned": before.states["learned"] - 2, "erased": 2}
    assert found.states.learned_erased == 2
    assert found.states.participants["all"]["learned"] == before.states["learned"]


def heavy(folder: Path, frozen: bool = False, **learner: Any) -> Job:
    """Four increments of ten rows, of which the second weighs so much that its loss is infinite."""
    folder.mkdir()
    weight = np.ones(40)
    weight[10:20] = 3e38
    rows = {"x": np.arange(40) % 7 - 3.0, "weight": weight, "late": np.arange(40) % 2}
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    return Job.from_document(
        {
            "stream": {"path": str(folder), "every": 10, "warm_start": 10},
            "features": {"label": "late", "numeric": ["x"], "weight": "weight", "classes": [0, 1]},
            "model": {"hidden": [3]},
            "learner": {"objective": "binary", "batch_size": 5, "frozen": frozen},
        }
    )


def test_rows_of_a_diverged_increment_are_in_quarantine(tmp_path: Path) -> None:
    run(heavy(tmp_path / "data"), tmp_path / "run")
    found = audit(tmp_path / "run")
    assert (found.violations, found.unproven) == ([], [])
    assert found.states.states == {"learned": 30, "quarantined": 10, "duplicate": 0, "erased": 0, "pending": 0}


def test_what_a_frozen_learner_leaves_alone_is_pending(tmp_path: Path) -> None:
    run(heavy(tmp_path / "data", frozen=True), tmp_path / "run")
    found = audit(tmp_path / "run")
    assert found.violations == []
    assert (found.states.states["learned"], found.states.pending["left alone by a frozen learner"]) == (10, 30)


def test_a_killed_run_is_proven_and_so_is_one_that_writes(tmp_path: Path) -> None:
    job = Job.from_document(mixed(tmp_path / "data"), ["stream.every=2h"])
    out = tmp_path / "run"

    def hold(name: str, progress: Any) -> None:
        if (out / "versions" / "4").exists():
            time.sleep(900)  # until it is killed

    child = multiprocessing.get_context("fork").Process(target=run, args=(job, out), kwargs={"on_progress": hold})
    child.start()
    while not (out / "versions" / "4").exists() and child.is_alive():
        time.sleep(0.005)
        if (out / "versions" / "1").exists():
            assert audit(out).violations == []
    assert child.pid is not None
    assert audit(out).violations == []
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    killed = audit(out)
    assert (killed.violations, killed.states.rows) == ([], 100)
    assert killed.states.pending["not reached yet"] > 0
    run(job, out)
    assert told(audit(out).document()) == counts(tmp_path / "data", 99)
