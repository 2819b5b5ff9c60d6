"""The progress of a run with every row of its stream's files, derived from its cursor.

If the run has finished a file, it has returned all rows of the file except those whose label never comes. The other
files are loaded again, as in a resume, so the same code determines which rows have arrived, which labels were due, and
which rows cannot be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from incr_core.data._row_ids import OFFSET_BITS
from incr_core.data._row_set import RowSet
from incr_core.data.sources import FileSource, Fragment
from incr_core.data.timeline._block import Block
from incr_core.data.timeline._live_blocks import LiveBlocks
from incr_core.data.timeline._loader import Loader
from incr_core.data.times import instants
from incr_core.errors import StreamError

__all__ = ["Standing", "standing"]


@dataclass(slots=True)
class Standing:
    """The rows of a stream's files, by the progress of a run.

    Attributes:
        names: The files by number; those known to the run come first.
        known: The number of files known to the run.
        there: All rows of existing files.
        finished: The rows of files that the run will not read again; the next four are rows of the other files.
        due: The rows whose labels are due.
        awaiting: The rows that have arrived and have a label to come.
        bad: The rows that have arrived and cannot be used.
        unlabelled: The rows that have arrived and whose label never comes; those of finished files are included.
        rejected: The rows of files that cannot be used at all.
        bad_files: Those files, their fingerprints, and the number of their rows returned before the fault.
        gone: The files known to the run that no longer exist.
        changed: The files that have changed since the run read them, with both fingerprints.
        uncounted: The files whose rows cannot be counted.
        unproven: The reason why the due rows of unfinished files cannot be determined, if there is one.
    """

    names: list[str]
    known: int
    there: RowSet = field(default_factory=RowSet)
    finished: RowSet = field(default_factory=RowSet)
    due: RowSet = field(default_factory=RowSet)
    awaiting: RowSet = field(default_factory=RowSet)
    bad: RowSet = field(default_factory=RowSet)
    unlabelled: RowSet = field(default_factory=RowSet)
    rejected: RowSet = field(default_factory=RowSet)
    bad_files: list[tuple[str, str, int]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    changed: dict[str, tuple[str, str]] = field(default_factory=dict)
    uncounted: list[str] = field(default_factory=list)
    unproven: str | None = None


def standing(source: FileSource, loader: Loader, cursor: dict[str, Any]) -> Standing:
    """Return the progress of the run with this cursor; {} for a run that has not begun.

    The loader must skip bad rows and bad files.
    """
    names, fingerprints = list(cursor.get("fragments", [])), dict(cursor.get("fingerprints", {}))
    changed = {name: (fingerprints.pop(name), now) for name, now in source.changed(fingerprints).items()}
    cursor = {**cursor, "fingerprints": fingerprints}
    done = {number for start, stop in cursor.get("done", []) for number in range(start, stop)}
    loader.learned = None  # a duplicate is due like any other row
    blocks = LiveBlocks(source, loader, cursor)
    missing = source.gone() | {number for number in source.numbers if source.name_of(number) in changed}
    unused = {int(number) for number, (_, rows) in cursor.get("rejected", {}).items() if not rows}
    lost = [source.name_of(number) for number in sorted(missing - done - unused)]
    found = Standing(list(source.names), len(names), changed=changed)
    found.gone = sorted({source.name_of(number) for number in source.gone()} & set(names))
    label_at = loader.chunks.label_at
    if lost:
        found.unproven = f"{lost[0]} is not there as the run read it"
    else:
        try:
            with closing(blocks):
                blocks.load_again(cursor.get("place", 0))
            _take_in(found, blocks.live, cursor, label_at is not None)
        except StreamError as fault:
            found.unproven = str(fault)
    _count(found, source, label_at, cursor, done, missing)
    return found


def _take_in(found: Standing, blocks: Sequence[Block], cursor: dict[str, Any], delayed: bool) -> None:
    """Classify the rows that were loaded again."""
    place, time = cursor.get("place", 0), cursor.get("time")
    due, awaiting, bad, unlabelled = ([np.empty(0, np.int64)] for _ in range(4))
    for block in blocks:
        assert block.batch.row_ids is not None
        rows, arrived = block.batch.row_ids.numpy(), block.at + block.start < place
        if delayed:
            ended = 0 if time is None else int(np.searchsorted(block.due, time))
            due.append(rows[block.order[:ended]])
            coming = block.order[ended:]
            awaiting.append(rows[coming[arrived[coming]]])
            never = np.ones(len(rows), bool)
            never[block.order] = False
            unlabelled.append(rows[never & arrived])
        else:
            due.append(rows[arrived])
        if block.bad:
            faulty = np.array([row.row for row in block.bad], np.int64)
            bad.append(faulty[block.bad_at + block.start < place])
    found.due, found.awaiting, found.bad, found.unlabelled = (
        RowSet.of_ids(np.concatenate(ids)) for ids in (due, awaiting, bad, unlabelled)
    )


def _count(
    found: Standing,
    source: FileSource,
    label_at: str | None,
    cursor: dict[str, Any],
    done: set[int],
    missing: frozenset[int],
) -> None:
    """Count the rows of every existing file."""
    rejected = {int(number): (known, rows) for number, (known, rows) in cursor.get("rejected", {}).items()}
    there, finished, unusable = list[tuple[int, int]](), list[tuple[int, int]](), list[tuple[int, int]]()
    unlabelled = [np.empty(0, np.int64)]
    for fragment in source.fragments(skip=missing):
        known, given = rejected.get(fragment.number, ("", 0))
        # A file that has changed is read again.
        is_bad = fragment.number in rejected and (given > 0 or source.fingerprint(fragment.name) == known)
        first = (fragment.file << OFFSET_BITS) + fragment.start
        if is_bad:
            found.bad_files.append((fragment.name, known, given))
        try:
            rows, never = _rows_of(fragment, label_at if fragment.number in done and not is_bad else None)
        except StreamError:
            found.uncounted.append(fragment.name)
            rows, never = given, np.empty(0, np.int64)
        there.append((first, first + rows))
        if fragment.number in done:
            finished.append((first, first + (given if is_bad else rows)))
            unlabelled.append(first + never)
        if is_bad:
            unusable.append((first + given, first + rows))
    found.there, found.finished, found.rejected = map(_joined, (there, finished, unusable))
    found.unlabelled |= RowSet.of_ids(np.concatenate(unlabelled))


def _joined(intervals: list[tuple[int, int]]) -> RowSet:
    pairs = np.array(intervals, np.int64).reshape(-1, 2)
    return RowSet.of_intervals(pairs[:, 0], pairs[:, 1])


def _rows_of(fragment: Fragment, label_at: str | None) -> tuple[int, np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the number of a fragment's rows, and the numbers of the rows without a label time."""
    if label_at is None:
        return sum(len(chunk) for chunk in fragment.chunks([])), np.empty(0, np.int64)
    table = fragment.load([label_at])
    read = instants(table[label_at], f"stream.label_at.{label_at} in {fragment.name}")
    return len(table), np.flatnonzero(~read.known & ~read.wrong)
