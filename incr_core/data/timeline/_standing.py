"""What a place in a stream says of every row of its files: which had to be given out by then, and which not yet.

Of a file that is finished with, every row was given out, but for those whose label never comes. The others are loaded
again, as by who goes on from that place, so it is the same code that says which rows have arrived, which labels were
due, and which rows cannot be used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from incr_core.data._row_ids import OFFSET_BITS
from incr_core.data._row_set import RowSet
from incr_core.data.sources import FileSource, Fragment
from incr_core.data.timeline._live_blocks import Window
from incr_core.data.timeline._loader import Loader
from incr_core.data.times import instants
from incr_core.errors import StreamError

__all__ = ["Standing", "standing"]


@dataclass(slots=True)
class Standing:
    """The rows of a stream's files, by how far a run has come with them.

    names: the files by number, of those known to the run and then of others. known: how many it knows.
    there: all rows of files that are there. finished: of files that nobody will read again. Of the others: due, to be
    learned by now; awaiting, arrived, with a label to come; bad, arrived, that cannot be used. unlabelled: arrived,
    whose label never comes. refused: rows of files that cannot be used as a whole.

    bad_files: those files, with their fingerprint and how many of their rows were given out before. gone: files the run
    knows that are not there. changed: files that are others than it read, and their marks. uncounted: files whose rows
    nobody can count. unproven: why it is not known which rows of the files that are not finished are due, if so.
    """

    names: list[str]
    known: int
    there: RowSet = field(default_factory=RowSet)
    finished: RowSet = field(default_factory=RowSet)
    due: RowSet = field(default_factory=RowSet)
    awaiting: RowSet = field(default_factory=RowSet)
    bad: RowSet = field(default_factory=RowSet)
    unlabelled: RowSet = field(default_factory=RowSet)
    refused: RowSet = field(default_factory=RowSet)
    bad_files: list[tuple[str, str, int]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    changed: dict[str, tuple[str, str]] = field(default_factory=dict)
    uncounted: list[str] = field(default_factory=list)
    unproven: str | None = None


def standing(source: FileSource, loader: Loader, cursor: dict[str, Any]) -> Standing:
    """How far a run whose place is `cursor` has come with the rows of the source; the cursor is {} before it began."""
    names, marks = list(cursor.get("fragments", [])), dict(cursor.get("marks", {}))
    now = source.changed(marks)
    changed = {name: (marks.pop(name), mark) for name, mark in now.items()}
    cursor = {**cursor, "marks": marks}
    done = {number for start, stop in cursor.get("done", []) for number in range(start, stop)}
    loader.on_bad_file = lambda fragment, rows, fault: None
    loader.strict = False
    window = Window(source, loader, cursor, cursor.get("time"))
    missing = source.gone() | {number for number in source.numbers if source.name_of(number) in changed}
    unused = {int(number) for number, (_, rows) in cursor.get("refused", {}).items() if not rows}
    lost = [source.name_of(number) for number in sorted(missing - done - unused)]
    found = Standing(list(source.names), len(names), changed=changed)
    found.gone = sorted({source.name_of(number) for number in source.gone()} & set(names))
    if lost:
        found.unproven = f"{lost[0]} is not there as the run read it"
    else:
        try:
            window.load_again(cursor.get("place", 0))
            _take_in(found, window, cursor, loader.label_at is not None)
        except StreamError as fault:
            found.unproven = str(fault)
    _count(found, source, loader.label_at, cursor, done, missing)
    return found


def _take_in(found: Standing, window: Window, cursor: dict[str, Any], delayed: bool) -> None:
    """Sort the rows that were loaded again."""
    place, time = cursor.get("place", 0), cursor.get("time")
    due, awaiting, bad, unlabelled = ([np.empty(0, np.int64)] for _ in range(4))
    for group in window.live:
        assert group.batch.rows is not None
        rows, arrived = group.batch.rows.numpy(), group.at + group.start < place
        if delayed:
            ended = 0 if time is None else int(np.searchsorted(group.due, time))
            due.append(rows[group.order[:ended]])
            coming = group.order[ended:]
            awaiting.append(rows[coming[arrived[coming]]])
            never = np.ones(len(rows), bool)
            never[group.order] = False
            unlabelled.append(rows[never & arrived])
        else:
            due.append(rows[arrived])
        if group.bad:
            faulty = np.array([row.row for row in group.bad], np.int64)
            bad.append(faulty[group.bad_at + group.start < place])
    found.due, found.awaiting, found.bad, found.unlabelled = (
        RowSet.of_ids(np.concatenate(pieces)) for pieces in (due, awaiting, bad, unlabelled)
    )


def _count(
    found: Standing,
    source: FileSource,
    label_at: str | None,
    cursor: dict[str, Any],
    done: set[int],
    missing: frozenset[int],
) -> None:
    """Count the rows of every file that is there."""
    refused = {int(number): (mark, rows) for number, (mark, rows) in cursor.get("refused", {}).items()}
    there, finished, unusable = list[tuple[int, int]](), list[tuple[int, int]](), list[tuple[int, int]]()
    unlabelled = [np.empty(0, np.int64)]
    for fragment in source.fragments(skip=missing):
        mark, given = refused.get(fragment.number, ("", 0))
        # One that is another by now is looked at again.
        is_bad = fragment.number in refused and (given > 0 or source.mark(fragment.name) == mark)
        first = (fragment.file << OFFSET_BITS) + fragment.start
        if is_bad:
            found.bad_files.append((fragment.name, mark, given))
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
    found.there, found.finished, found.refused = map(_joined, (there, finished, unusable))
    found.unlabelled |= RowSet.of_ids(np.concatenate(unlabelled))


def _joined(intervals: list[tuple[int, int]]) -> RowSet:
    pairs = np.array(intervals, np.int64).reshape(-1, 2)
    return RowSet.of_intervals(pairs[:, 0], pairs[:, 1])


def _rows_of(fragment: Fragment, label_at: str | None) -> tuple[int, np.ndarray[Any, np.dtype[np.int64]]]:
    """How many rows a fragment has, and which of them, by number, have no label time."""
    if label_at is None:
        return sum(len(chunk) for chunk in fragment.chunks([])), np.empty(0, np.int64)
    table = fragment.load([label_at])
    read = instants(table[label_at], f"stream.label_at.{label_at} in {fragment.name}")
    return len(table), np.flatnonzero(~read.known & ~read.wrong)
