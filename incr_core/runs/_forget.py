"""Carry out a request for erasure: delete given rows from everything that a run keeps of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.data.sources import open_source, read_table
from incr_core.errors import JobError, StreamError
from incr_core.job import Job
from incr_core.memories import Memory
from incr_core.registry import SCHEMA, RunDirectory, add_erased, ids_of, state_folder
from incr_core.registry.ledger import flat
from incr_core.report import write_report
from incr_core.rounds import Pending, Span
from incr_core.storage import checkpoint

__all__ = ["forget", "rows_in_file", "rows_where"]

COUNTS = ("remembered", "kept", "waiting", "predicted")


def forget(directory: str | Path, addresses: pa.Table, job: Job | None = None) -> dict[str, Any]:
    """Delete rows from what a run keeps of rows, and remember that they are not to be read again.

    addresses: columns `fragment`, a file's name as in ledger.parquet, and `offset`, the row's in that file. job: the
    run's own, where it was made of objects; None: the one that its directory holds.

    Deleted are: the rows in the memories of strategies, with all that is kept beside them (DER's answers); rows kept to
    consolidate on, or waiting to be learned; predictions waiting for their labels; the values in the quarantine. It is
    done in the states of all participants, and in the run's baselines. Reviews leave the rows out from now on. What
    was worked out of rows stays as it is: weights, class means, sums, rates and metrics. A run goes on as one whose
    memories never drew the rows. Refused, before anything is changed, are a run or a baseline that is being written and
    memories of prototypes in any of them, from which no row can be taken out. After a kill, the same call finishes what
    it began.

    Returns counts: `rows` asked for; `learned` of them, in the versions `versions`; `remembered` in memories, `kept` to
    consolidate on, `waiting` to be learned and `predicted` without a label yet, in the newest states; `quarantined`;
    `unknown`, in no file that the run has met. And `elsewhere`, participants that keep their states on disks of their
    own, where nothing is deleted; `outcomes`, versions with the past outcomes that rates are made of (history.arrow:
    time, hashed keys and label of a row), which stay and fade with the windows of the rates.
    """
    addresses = addresses.select(SCHEMA.names).cast(SCHEMA).group_by(SCHEMA.names).aggregate([])
    beside = [file.parent for file in sorted(Path(directory).glob("baselines/*/job.toml"))]
    runs = [RunDirectory.open(folder) for folder in (directory, *beside)]
    with contextlib.ExitStack() as locks:
        for run in runs:
            locks.enter_context(run.alone())
        objects = {} if job is None else job.objects_given
        jobs = [_job(run, objects) for run in runs]
        for job in jobs:
            _refuse_what_cannot_be(job)
        counts = [_forget_in_run(run, job, addresses) for run, job in zip(runs, jobs, strict=True)]
    return counts[0]


def rows_where(directory: str | Path, condition: str, job: Job | None = None) -> tuple[pa.Table, list[str]]:
    """The addresses of the rows in a run's files of which COLUMN=VALUE holds; any column of theirs will do.

    Returns them, and the files that the run has learned from but that are gone, in which nobody can look. A file whose
    values are of a type that cannot be VALUE has no such row. Raises JobError where that is so of all, or the condition
    is none; StreamError where a file lacks the column.
    """
    column, equals, text = condition.partition("=")
    if not equals:
        raise JobError(f"--where {condition}: expected COLUMN=VALUE, such as customer=42")
    run = RunDirectory.open(directory)
    job = _job(run, {} if job is None else job.objects_given)
    found, others, gone = list[pa.Table](), dict[str, str](), _fragments(run.table("ledger"))
    for fragment in open_source(job.source(), job.stream.format).fragments():
        gone.discard(fragment.name)
        values = fragment.load([column])[column]
        try:
            same = pc.equal(values, pa.scalar(text).cast(values.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            others[fragment.name] = str(values.type)
            continue
        offsets = np.flatnonzero(same.fill_null(False).to_numpy())
        found.append(pa.table([pa.array([fragment.name] * len(offsets), pa.string()), offsets], schema=SCHEMA))
    if others and not found:
        name, kind = next(iter(others.items()))
        raise JobError(
            f"--where {condition}: expected a value like those of {column} in {name}, which are of type {kind}, "
            f"got {text!r}"
        )
    return pa.concat_tables([SCHEMA.empty_table(), *found]), sorted(gone)


def rows_in_file(path: str | Path) -> pa.Table:
    """The addresses that a file lists in its columns `fragment` and `offset`, as quarantine.parquet does."""
    if not Path(path).is_file():
        raise StreamError(f"--rows {path}: expected a file with the columns fragment and offset, got none")
    return read_table(Path(path), SCHEMA.names, None, f"--rows {path}").cast(SCHEMA)


def _job(run: RunDirectory, objects: Mapping[str, Callable[..., Any]]) -> Job:
    """What the run was made with, and not what its job.toml finds in the data now."""
    return Job.from_document(run.job(), place=str(run.path / "job.toml"), objects=objects)


def _memories(job: Job) -> dict[str, Memory]:
    """The memories of the job's strategies, by their names in a learner's state."""
    strategies = nn.ModuleList(job.strategies())
    return {name: module for name, module in strategies.named_modules() if isinstance(module, Memory)}


def _refuse_what_cannot_be(job: Job) -> None:
    """A memory from which no row can be taken out says so before anything is changed."""
    for memory in _memories(job).values():
        memory.forget(torch.empty(0, dtype=torch.int64))


def _forget_in_run(run: RunDirectory, job: Job, addresses: pa.Table) -> dict[str, Any]:
    """Take the rows out of one run, which nobody else writes; returns the counts of `forget`."""
    add_erased(run.path, addresses)
    ledger = run.table("ledger")
    newest: dict[str, dict[str, int]] = {}
    known = _fragments(ledger) | _fragments(run.table("quarantine"))
    participants = set(ledger["participant"].to_pylist()) if ledger.num_rows else set[str]()
    states = run.path.glob("state/*/*/**/state.json")
    for file in sorted(states, key=lambda file: int(file.relative_to(run.path).parts[2])):
        state, manifest = checkpoint.load(file.parent)
        if "learner" in state:
            names = (state["cursor"] or {"fragments": []})["fragments"]
            known.update(names)
            counts = _forget_in_state(job, state, ids_of(addresses, names))
            newest[file.relative_to(run.path).parts[1]] = counts
            if any(counts.values()):
                checkpoint.save(file.parent, state, **manifest)
        else:  # the loop's, which names the clients of a federated run
            participants.update(client["name"] for client in state["engine"].get("clients", ()))
    quarantined = run.rewrite("quarantine", lambda table: _without_values(table, addresses))
    write_report(run)
    found = {name: sum(counts[name] for counts in newest.values()) for name in COUNTS}
    whole = [version for version in run.versions() if version["has_weights"]]
    return {
        "rows": addresses.num_rows,
        **_learned(ledger, addresses),
        **found,
        "quarantined": quarantined,
        "unknown": addresses.num_rows - len(ids_of(addresses, sorted(known))),
        "elsewhere": sum(not state_folder(run.path, name, 0).parent.exists() for name in participants),
        "outcomes": [version["version"] for version in whole if "history.arrow" in version["files"]],
    }


def _fragments(table: pa.Table) -> set[str]:
    """The files that a ledger or a quarantine names."""
    return set(table["fragment"].to_pylist()) if table.num_rows else set()


def _forget_in_state(job: Job, state: dict[str, Any], ids: Tensor) -> dict[str, int]:
    """Take the rows out of a participant's state; returns how many were where."""
    strategies, remembered = state["learner"]["strategies"], 0
    for name, memory in _memories(job).items():
        prefix = f"{name}."
        mine = {key.removeprefix(prefix): value for key, value in strategies.items() if key.startswith(prefix)}
        memory.load_state_dict(mine)
        remembered += memory.forget(ids)
        strategies.update({prefix + key: value for key, value in memory.state_dict().items()})
    kept = 0
    if state["span"] is not None:
        span = Span(0)
        span.load_state_dict(state["span"])
        kept = span.forget(ids)
        state["span"] = span.state_dict()
    pending = Pending()
    pending.load_state_dict(state["pending"])
    predicted = len(pending.take(ids)[0])
    state["pending"] = pending.state_dict()
    at_hand, waiting = state["increment"], 0
    if at_hand is not None:
        labelled = Batch(**at_hand["labelled"])
        left = labelled.without(ids)
        waiting = len(labelled) - len(left)
        at_hand["labelled"] = {name: getattr(left, name) for name in at_hand["labelled"]}
    return {"remembered": remembered, "kept": kept, "waiting": waiting, "predicted": predicted}


def _without_values(table: pa.Table, addresses: pa.Table) -> tuple[pa.Table, int]:
    """A quarantine without the values of these rows, and how many rows of it they are."""
    asked = set(zip(addresses["fragment"].to_pylist(), addresses["offset"].to_pylist(), strict=True))
    here = zip(table["fragment"].to_pylist(), table["offset"].to_pylist(), strict=True)
    mask = pa.array([address in asked for address in here], pa.bool_())
    values = pc.if_else(mask, pa.scalar(None, pa.string()), table["value"])
    return table.set_column(table.schema.get_field_index("value"), "value", values), sum(mask.to_pylist())


def _learned(ledger: pa.Table, addresses: pa.Table) -> Mapping[str, Any]:
    """How many of the rows were learned, and in which versions."""
    if not ledger.num_rows:
        return {"learned": 0, "versions": []}
    entry, start, stop = flat(ledger)
    fragments, versions = np.array(ledger["fragment"].to_pylist()), ledger["version"].to_numpy()
    learned, found = 0, set[int]()
    for name in addresses["fragment"].unique().to_pylist():
        mine = np.flatnonzero(fragments[entry] == name)
        if not len(mine):
            continue
        mine = mine[start[mine].argsort()]
        offsets = np.unique(addresses.filter(pc.equal(addresses["fragment"], name))["offset"].to_numpy())
        place = mine[np.searchsorted(start[mine], offsets, side="right") - 1]
        inside = (start[place] <= offsets) & (offsets < stop[place])
        learned += int(inside.sum())
        found |= set(versions[entry[place[inside]]].tolist())
    return {"learned": learned, "versions": sorted(found)}
