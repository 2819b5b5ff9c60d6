"""Erasure of rows from a journal: predictions, answers and labels, also while servers write to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from incr_core.errors import JobError
from incr_core.serving._journal import UNWRITTEN
from incr_core.serving._journals import open_journal
from incr_core.serving._live_rates import number_in
from incr_core.serving._statements import Execute

__all__ = ["erase_in_journal"]

CHUNK = 10_000
"""Rows read at a time."""


def erase_in_journal(place: str | Path, *, where: str | None = None, rows: pa.Table | None = None) -> dict[str, int]:
    """Delete predictions and their labels, and overwrite their space on disk.

    A label that arrives later for one of these predictions is refused (410).

    Args:
        place: Folder of the journal, or address of its PostgreSQL.
        where: COLUMN=VALUE, compared with the rows of requests.
        rows: Addresses of rows in the files that the journal has written.

    Returns:
        The numbers of predictions and labels that were deleted.

    Raises:
        JobError: `where` is not a condition.
        StorageError: There is no journal, or it cannot be written.
    """
    # Rows are read and deleted in one transaction, so that no process writes in between.
    with closing(open_journal(place, create=False)) as journal, journal.erasing() as execute:
        numbers = [*_where(execute, where)] if where is not None else []
        numbers += _addressed(execute, rows, journal.mark) if rows is not None else []
        found = {"predictions": 0, "labels": 0}
        for number in sorted(set(numbers)):
            found["predictions"] += execute(_GONE, [number]).rowcount
            # A label's place stays. Otherwise the offsets of later rows in the file would be wrong.
            found["labels"] += execute(_EMPTIED, [UNWRITTEN, number]).rowcount
    return found


_GONE = "UPDATE predictions SET row = NULL, answer = NULL WHERE number = ? AND row IS NOT NULL"
"""The number stays, and is not issued again."""

_EMPTIED = """
UPDATE labels SET told = NULL, at = CASE WHEN EXISTS (
    SELECT 1 FROM files WHERE done AND first <= place AND place < stop) THEN 0 ELSE ? END
WHERE number = ? AND told IS NOT NULL
"""


def _where(execute: Execute, condition: str) -> Iterator[int]:
    """Yield the numbers of the predictions for which COLUMN=VALUE holds."""
    column, equals, value = condition.partition("=")
    if not equals:
        raise JobError(f"--where {condition}: expected COLUMN=VALUE, such as customer=42")
    after = 0
    while some := execute(_SOME, [after, CHUNK]).fetchall():
        for number, row in some:
            asked = json.loads(row)
            if column in asked and _is(asked[column], value):
                yield number
        after = some[-1][0]


_SOME = "SELECT number, row FROM predictions WHERE number > ? AND row IS NOT NULL ORDER BY number LIMIT ?"


def _is(value: Any, text: str) -> bool:
    """Return whether a JSON value equals the one that a text states.

    Example:
        >>> [_is(value, "7") for value in (7, 7.0, "7", 8, None, True)]
        [True, True, True, False, False, False]
    """
    if isinstance(value, str):
        return value == text
    try:
        told = json.loads(text)
    except ValueError:
        return False
    return value is not None and told == value and isinstance(told, bool) == isinstance(value, bool)


def _addressed(execute: Execute, rows: pa.Table, mark: str) -> list[int]:
    """Return the numbers of the predictions at these addresses, in files that this journal has written."""
    found: list[int] = []
    for name, offset in zip(rows["fragment"].to_pylist(), rows["offset"].to_pylist(), strict=True):
        number = number_in(name, mark)
        if number is None:
            continue
        file = execute("SELECT first, stop FROM files WHERE number = ? AND done", [number]).fetchone()
        if file is not None:
            left_out = "SELECT place FROM labels WHERE place >= ? AND place < ? AND at = ? ORDER BY place"
            place = file[0] + offset
            for (hole,) in execute(left_out, [*file, UNWRITTEN]).fetchall():
                place += hole <= place
            found += [one for (one,) in execute("SELECT number FROM labels WHERE place = ?", [place]).fetchall()]
    return found
