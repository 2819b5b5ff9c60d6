"""Subtracts erased rows from the sums of which a closed-form head is computed (`Ridge.take_out`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.data.timeline import Stream
from incr_core.errors import StreamError
from incr_core.job import Job
from incr_core.registry import SCHEMA, RunDirectory, ids_of, loop_state
from incr_core.runs._learned_rows import learned_rows
from incr_core.storage import checkpoint, parquet_bytes, read_table, write_atomically
from incr_core.strategies import Ridge

__all__ = ["take_out_of_sums"]

TAKEN_OUT = "taken_out"
"""Key of a state's manifest with the ids of rows that have been subtracted from its sums."""

FADE = "the sums fade over time"

NOTED = SCHEMA.append(pa.field("at", pa.int64()))

States = Iterator[tuple[Path, Any, dict[str, Any]]]


def take_out_of_sums(run: RunDirectory, job: Job, asked: pa.Table, states: States) -> dict[str, Any]:
    """Subtract the learned ones of these rows from the sums in all saved states of a run's participants.

    The rows are read again from the stream's files, and their features are computed with each version's weights.
    Subtracted rows are recorded with the state, and at the end in DIR/erased/sums.parquet. So no row is subtracted
    twice, after a kill or on a repeated request.

    Args:
        states: Folder, state and manifest of each.

    Returns:
        `subtracted`: Rows subtracted now. `summed`: Rows that remain. `summed_because`: The reason: their files are
        gone or have changed, the sums decay, as those of parallel experts do, a server has its own sums, or the job has
        rates. The counts are 0 and the reason is empty for a job without sums.
    """
    strategies, latest = job.strategies(), run.latest()
    place = next((place for place, one in enumerate(strategies) if isinstance(one, Ridge)), None)
    if latest is None or (place is None and job.model.kind != "auto"):
        return {"subtracted": 0, "summed": 0, "summed_because": ""}
    if place is None:  # experts computed from sums that decay
        count = learned_rows(run.table("ledger"), asked).num_rows
        return {"subtracted": 0, "summed": count, "summed_because": FADE if count else ""}
    gone = _noted(run.path)
    left = learned_rows(run.table("ledger"), asked).join(gone, SCHEMA.names, join_type="left outer")
    left = left.filter(pc.less(pc.fill_null(left["at"], 0), left["version"])).select([*SCHEMA.names, "version"])
    found = left.slice(0, 0)
    obstacle = _obstacle(strategies[place], run, job, latest)
    if left.num_rows and not obstacle:
        found = _subtracted(run, job, left, place, states)
    if found.num_rows:
        now = found.select(SCHEMA.names).append_column("at", pa.array([latest] * found.num_rows, pa.int64()))
        older = gone.join(now, SCHEMA.names, join_type="left anti")
        (run.path / "erased").mkdir(exist_ok=True)
        write_atomically(run.path / "erased" / "sums.parquet", parquet_bytes(pa.concat_tables([older, now])))
    summed = left.num_rows - found.num_rows
    return {
        "subtracted": found.num_rows,
        "summed": summed,
        "summed_because": (obstacle or "their files are gone or have changed") if summed else "",
    }


def _obstacle(strategy: object, run: RunDirectory, job: Job, latest: int) -> str:
    """Return why no row can be subtracted from the sums; "" if rows can."""
    if isinstance(strategy, Ridge) and strategy.decay > 0:
        return FADE
    if "shared" in loop_state(run.path, latest)["engine"]:
        return "a server has its own sums"
    return "the job has rates, which cannot be computed again for past rows" if job.rates() else ""


def _subtracted(run: RunDirectory, job: Job, left: pa.Table, place: int, states: States) -> pa.Table:
    """Subtract rows from every state that includes them; return those that are in no state any more."""
    learner, stream, prefix = job.learner_for(job.numeric_width), job.data(), f"{place}."
    ridge = learner.strategies[place]
    assert isinstance(ridge, Ridge)
    for folder, state, manifest in states:
        mine = left.filter(pc.less_equal(left["version"], int(folder.relative_to(run.path).parts[2])))
        names = list(state["cursor"]["fragments"]) if state["cursor"] else []
        known = pc.is_in(mine["fragment"], pa.array(names, pa.string()))
        done = torch.tensor(manifest.get(TAKEN_OUT, []), dtype=torch.int64)
        wanted = ids_of(mine.filter(known), names)
        rows = _read_back(stream, wanted[~torch.isin(wanted, done)], state["cursor"])
        if rows is not None and rows.row_ids is not None:
            kept = state["learner"]["strategies"]
            learner.adopt(run.load(int(folder.relative_to(run.path).parts[2]))[0])
            ridge.load_state_dict({n.removeprefix(prefix): v for n, v in kept.items() if n.startswith(prefix)})
            ridge.take_out(learner.model, learner.objective, rows.to(learner.device))
            kept |= {prefix + name: value for name, value in ridge.state_dict().items()}
            done = torch.cat([done, rows.row_ids])
            checkpoint.save(folder, state, **{**manifest, TAKEN_OUT: done.tolist()})
        stay = mine.filter(known).filter(pa.array((~torch.isin(wanted, done)).numpy()))
        left = left.join(pa.concat_tables([stay, mine.filter(pc.invert(known))]), SCHEMA.names, join_type="left anti")
    return left


def _read_back(stream: Stream, ids: Tensor, cursor: dict[str, Any] | None) -> Batch | None:
    if cursor is None or not len(ids):
        return None
    try:
        return stream.read_back(ids, cursor)
    except StreamError:  # the file has been replaced
        return None


def _noted(directory: Path) -> pa.Table:
    """Rows that were subtracted before, with their versions."""
    file = directory / "erased" / "sums.parquet"
    return read_table(file.name, file.read_bytes()) if file.is_file() else NOTED.empty_table()
