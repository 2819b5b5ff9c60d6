"""Carries out a request for erasure: deletes given rows from everything that a run keeps of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from incr_core.data.sources import Source, open_source, read_rows_file
from incr_core.errors import ArgumentError, CheckpointError, JobError, StreamError
from incr_core.job import Job
from incr_core.registry import (
    SCHEMA,
    RunDirectory,
    begin_erasing,
    erased,
    erasing,
    finish_erasing,
    ids_of,
    loop_state,
    state_folder,
)
from incr_core.report import write_report
from incr_core.runs._baseline_runs import baseline_runs
from incr_core.runs._kept_rows import KEPT, Memories, delete_rows, is_participants, memories_of, rows_kept
from incr_core.runs._learned_rows import learned_rows
from incr_core.runs._summed_rows import take_out_of_sums
from incr_core.storage import checkpoint, located, remove

__all__ = ["erase", "rows_in_file", "rows_in_source", "rows_where"]


def erase(directory: str | Path, addresses: pa.Table, job: Job | None = None) -> dict[str, Any]:
    """Delete rows from everything that a run keeps of rows, and record that they must not be read again.

    The call deletes the rows in the memories of strategies, with the data kept beside them (DER's answers); rows kept
    for consolidation, for the comparison of versions, or to be learned later; predictions without a label yet; and
    values in the quarantine. It does so in the states of all participants and in the run's baselines. Reviews skip the
    rows from then on.

    Values derived from rows stay: weights, class means, rates, metrics and sums. The exception is the sums of a
    closed-form head, from which rows are subtracted if their files can be read. The run continues as one whose memories
    never drew the rows.

    Every state and quarantine is read before anything changes. The call fails at that point if one is damaged, if the
    run or a baseline is being written, or if one of them has a memory of prototypes, from which no row can be removed.
    At the end everything is read back from disk, and a row that remains is an error. After a kill the run does not
    continue until the same call, or one with the rows in DIR/erasing.parquet, has finished; that call counts its own
    deletions. Rows that were erased earlier and learned since, when their labels arrived, are deleted again.

    Args:
        directory: The run directory.
        addresses: Columns `fragment`, a file's name as in the ledger, and `offset`, the row's offset in that file.
        job: The job, if it was built from objects. Default: the job that the directory holds.

    Returns:
        Counts. `rows`: requested. `learned`: those learned, in the versions `versions`. `subtracted`: those now
        subtracted from the sums of a closed-form head. `summed`: those that remain in such sums, with the reason
        `summed_because`. `remembered` in memories, `kept` for consolidation, `waiting` to be learned, `predicted`
        without a label yet and `compared` on: those deleted from the newest states. `quarantined`: in the quarantine.
        `dropped`: by limits. `unknown`: in no known file. `states`: states of participants, including those of
        baselines, that were read back and hold none of the rows. `elsewhere`: participants that keep their states on
        their own disks, where nothing is deleted. `outcomes`: versions with the past outcomes from which rates are
        computed (history.arrow: time, hashed keys and label of a row). Outcomes stay, and expire with the windows of
        the rates.

    Raises:
        ArgumentError: The addresses are invalid.
        CheckpointError: A state is damaged.
        JobError: The job cannot be read, or its rows are with their owners.
        RunDirectoryError: There is no run, or it is being written.
        StorageError: A file cannot be read or written.
        StrategyError: No row can be removed from a memory.
    """
    asked = _once(addresses)
    directory = located(directory)
    beside = baseline_runs(directory)
    runs = [RunDirectory.open(folder) for folder in (directory, *beside)]
    with contextlib.ExitStack() as locks:
        for run in runs:
            locks.enter_context(run.alone())
        objects = {} if job is None else job.objects_given
        jobs = [_job(run, objects) for run in runs]
        _refuse_owned(jobs[0], str(directory))
        memories = [memories_of(one) for one in jobs]
        for run, found in zip(runs, memories, strict=True):
            _check(run, found)
        for run in runs:
            begin_erasing(run.path, asked)
        each = zip(runs, jobs, memories, strict=True)
        counts = [_erase_in_run(run, one, found, asked) for run, one, found in each]
        for run in reversed(runs):  # the run itself stays marked until its baselines are done
            finish_erasing(run.path)
    return counts[0] | {"states": sum(count["states"] for count in counts)}


def rows_where(directory: str | Path, condition: str, job: Job | None = None) -> tuple[pa.Table, list[str]]:
    """Return the addresses of the rows in a run's files for which COLUMN=VALUE holds, for any column of the files.

    A file whose column has a type that cannot hold VALUE has no such row.

    Returns:
        The addresses, and the files that the run has learned from but that no longer exist.

    Raises:
        ArgumentError: The text is no condition, or VALUE fits the column's type in no file.
        StreamError: A file lacks the column.
    """
    run = RunDirectory.open(directory)
    job = _job(run, {} if job is None else job.objects_given)
    _refuse_owned(job, f"--where {condition}")
    learned = _fragments(run.table("ledger"))
    source, tolerates = open_source(job.source(), job.stream.file_format), job.features.tolerates_bad_files
    found, there = rows_in_source(source, condition, learned, tolerates=tolerates)
    return found, sorted(learned - there)


def rows_in_source(
    source: Source, condition: str, learned: Set[str] = frozenset(), *, tolerates: bool = False
) -> tuple[pa.Table, set[str]]:
    """Return the addresses of the rows of a source for which COLUMN=VALUE holds, and the names of all its files.

    Args:
        tolerates: Whether to skip a file that cannot be read and from which no row was `learned`.

    Raises:
        ArgumentError: As for `rows_where`.
        StreamError: As for `rows_where`.
    """
    column, equals, text = condition.partition("=")
    if not equals:
        raise ArgumentError(f"where {condition}: expected COLUMN=VALUE, such as customer=42")
    found, others, names = list[pa.Table](), dict[str, str](), set[str]()
    for fragment in source.fragments():
        names.add(fragment.name)
        try:
            values = fragment.load([column])[column]
        except StreamError:
            # No row of a file in quarantine was learned. Another file that cannot be read is an error.
            if not tolerates or fragment.name in learned:
                raise
            continue
        try:
            same = pc.equal(values, pa.scalar(text).cast(values.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            others[fragment.name] = str(values.type)
            continue
        offsets = np.flatnonzero(same.fill_null(False).to_numpy())
        found.append(pa.table([pa.array([fragment.name] * len(offsets), pa.string()), offsets], schema=SCHEMA))
    if others and not found:
        name, kind = next(iter(others.items()))
        raise ArgumentError(
            f"where {condition}: expected a value like those of {column} in {name}, which are of type {kind}, "
            f"got {text!r}"
        )
    return pa.concat_tables([SCHEMA.empty_table(), *found]), names


def rows_in_file(path: str | Path) -> pa.Table:
    """Return the addresses that a file lists in its columns `fragment` and `offset`, as the quarantine does."""
    table, _ = read_rows_file(path, SCHEMA.names, expected="a file with the columns fragment and offset")
    found = table.cast(SCHEMA)
    return found.filter(pc.is_valid(found["offset"]))  # a whole file in quarantine has none


def _job(run: RunDirectory, objects: Mapping[str, Callable[..., Any]]) -> Job:
    """The job as the run was created with it, without features that its job.toml would infer from the data now."""
    return Job.from_document(run.job(), place=str(run.path / "job.toml"), objects=objects)


def _refuse_owned(job: Job, place: str) -> None:
    if job.federated.owned:
        raise JobError(
            f"{place}: expected a run that keeps something of rows, got one whose rows are with their owners; let an "
            "owner erase its own (incr forget CLIENT.toml --where COLUMN=VALUE, on its machine)"
        )


def _once(addresses: pa.Table) -> pa.Table:
    return addresses.select(SCHEMA.names).cast(SCHEMA).group_by(SCHEMA.names).aggregate([])


def _check(run: RunDirectory, memories: Memories) -> None:
    """Read everything that an erasure reads. Raises an error for a damaged file or a row that cannot be removed."""
    for memory in memories.values():
        memory.drop(torch.empty(0, dtype=torch.int64))
    for folder, state, _ in _states(run):
        if is_participants(state):
            _rows_in(folder, state, memories)
    for _ in run.stored("quarantine"):
        pass
    _participants(run)


def _states(run: RunDirectory) -> Iterator[tuple[Path, Any, dict[str, Any]]]:
    """The folder, state and manifest of every saved participant and loop state, by version, oldest first."""
    files = list(run.path.glob("state/*/*/**/state.json"))
    for file in sorted(files, key=lambda file: (int(file.relative_to(run.path).parts[2]), file)):
        yield file.parent, *checkpoint.load(file.parent)


def _participants(run: RunDirectory) -> set[str]:
    """Current participants, with or without learned rows. Replicas that have left a cluster keep nothing."""
    latest = run.latest()
    return set() if latest is None else {*loop_state(run.path, latest)["participants"]}


def _rows_in(folder: Path, state: Any, memories: Memories) -> dict[str, Tensor]:
    try:
        return rows_kept(state, memories)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _erase_in_run(run: RunDirectory, job: Job, memories: Memories, asked: pa.Table) -> dict[str, Any]:
    """Delete the rows from one run, which no other process writes; return the counts of `erase`."""
    addresses = _once(pa.concat_tables([erased(run.path), erasing(run.path)]))
    ledger, quarantine = run.table("ledger"), run.table("quarantine")
    newest: dict[str, dict[str, int]] = {}
    known = _fragments(ledger) | _fragments(quarantine)
    for folder, state, manifest in _states(run):
        if is_participants(state):
            known.update(_met(state))
            newest[folder.relative_to(run.path).parts[1]] = _held(folder, state, memories, asked)
            if any(_held(folder, state, memories, addresses).values()):
                delete_rows(state, memories, ids_of(addresses, _met(state)))
                checkpoint.save(folder, state, **manifest)
        checkpoint.tidy(folder)
    participants = (one for one in _states(run) if is_participants(one[1]))
    sums = take_out_of_sums(run, job, erasing(run.path), participants)
    run.rewrite("quarantine", lambda table: _without_values(table, addresses))
    for unfinished in run.path.rglob(".tmp-*"):  # a file that a kill has left incomplete
        remove(unfinished)
    write_report(run)
    found = {name: sum(counts[name] for counts in newest.values()) for name in KEPT}
    whole = [version for version in run.versions() if version["has_weights"]]
    return {
        "rows": asked.num_rows,
        **_learned(ledger, asked),
        **sums,
        **found,
        "quarantined": sum(_among(quarantine, asked)) if quarantine.num_rows else 0,
        "dropped": sum(_among(dropped, asked)) if (dropped := run.table("dropped")).num_rows else 0,
        "unknown": asked.num_rows - len(ids_of(asked, sorted(known))),
        "states": _verify(run, memories, addresses),
        "elsewhere": sum(not state_folder(run.path, name, 0).parent.exists() for name in _participants(run)),
        "outcomes": [version["version"] for version in whole if "history.arrow" in version["files"]],
    }


def _held(folder: Path, state: Any, memories: Memories, addresses: pa.Table) -> dict[str, int]:
    """Number of these rows that a participant's state keeps, by the places of `KEPT`."""
    ids = ids_of(addresses, _met(state))
    return {place: int(torch.isin(rows, ids).sum()) for place, rows in _rows_in(folder, state, memories).items()}


def _met(state: Any) -> list[str]:
    """Files that a participant has read, by their numbers in its row ids."""
    return list(state["cursor"]["fragments"]) if state["cursor"] else []


def _verify(run: RunDirectory, memories: Memories, addresses: pa.Table) -> int:
    """Read everything back from disk; return the number of participants' states, which all hold none of the rows."""
    verified, remedy = 0, "run the same command again"
    for folder, state, _ in _states(run):
        if is_participants(state):
            if left := sum(_held(folder, state, memories, addresses).values()):
                raise CheckpointError(f"{folder}: expected no erased row after the erasure, found {left}; {remedy}")
            verified += 1
    for place, table in run.stored("quarantine"):
        told = zip(_among(table, addresses), table["value"].is_valid().to_pylist(), strict=True)
        if left := sum(here and value for here, value in told):
            raise CheckpointError(f"{place}: expected no value of an erased row, found {left}; {remedy}")
    return verified


def _fragments(table: pa.Table) -> set[str]:
    """Files that a ledger or a quarantine names."""
    return set(table["fragment"].to_pylist()) if table.num_rows else set()


def _among(table: pa.Table, addresses: pa.Table) -> list[bool]:
    """Whether each row of a quarantine is one of these."""
    asked = set(zip(addresses["fragment"].to_pylist(), addresses["offset"].to_pylist(), strict=True))
    here = zip(table["fragment"].to_pylist(), table["offset"].to_pylist(), strict=True)
    return [address in asked for address in here]


def _without_values(table: pa.Table, addresses: pa.Table) -> tuple[pa.Table, int]:
    """Return a quarantine without the values of these rows, and the number of these rows in it."""
    mask = _among(table, addresses)
    values = pc.if_else(pa.array(mask, pa.bool_()), pa.scalar(None, pa.string()), table["value"])
    return table.set_column(table.schema.get_field_index("value"), "value", values), sum(mask)


def _learned(ledger: pa.Table, addresses: pa.Table) -> Mapping[str, Any]:
    """Number of the rows that were learned, and the versions in which they were learned."""
    found = learned_rows(ledger, addresses)
    return {"learned": found.num_rows, "versions": sorted(set(found["version"].to_pylist()))}
