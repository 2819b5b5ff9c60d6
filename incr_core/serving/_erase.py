"""Erase rows from a journal, while a server writes it or not: predictions, what was answered, and labels."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from incr_core.errors import JobError, StorageError
from incr_core.serving._journal import FILE, UNWRITTEN
from incr_core.serving._live_rates import number_in

__all__ = ["erase_in_journal"]

PATIENCE = 30.0
"""Seconds to wait for a server that writes."""


def erase_in_journal(folder: Path, *, where: str | None = None, rows: pa.Table | None = None) -> dict[str, int]:
    """Delete predictions and their labels, and overwrite the place that they had on the disk; returns how many.

    where: COLUMN=VALUE, of rows as they were asked. rows: addresses of rows in the files that the journal has written.
    A label that comes for one of them later finds it gone (410). Raises JobError where the condition is none,
    StorageError where there is no journal or it cannot be written.
    """
    path = folder / FILE
    if not path.is_file():
        raise StorageError(f"--journal {folder}: expected the folder of a journal, found none; name it")
    try:
        # What is read and then deleted is looked at once, so nobody may write in between.
        with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete=ON")
            connection.execute("BEGIN IMMEDIATE")
            numbers = [*_where(connection, where)] if where is not None else []
            numbers += _addressed(connection, rows) if rows is not None else []
            found = {"predictions": 0, "labels": 0}
            for number in sorted(set(numbers)):
                gone = connection.execute(_GONE, [number]).rowcount
                found["predictions"] += gone
                # A label's place stays, or rows behind it in a file could not be told by their offsets any more.
                found["labels"] += connection.execute(_EMPTIED, [UNWRITTEN, number]).rowcount
            connection.execute("COMMIT")
            # Rows stand in the log of writes too, until it is moved into the file and cut.
            [[busy, _, _]] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if busy:
                raise StorageError(f"{path}: expected its log of writes to be cut, but somebody reads it; try again")
    except sqlite3.Error as error:
        raise StorageError(f"{path}: cannot be written or read: {error}; give the same command again") from error
    return found


_GONE = "UPDATE predictions SET row = NULL, answer = NULL WHERE number = ? AND row IS NOT NULL"
"""Its number stays, and is never another's."""

_EMPTIED = """
UPDATE labels SET told = NULL, at = CASE WHEN EXISTS (
    SELECT 1 FROM files WHERE done AND first <= place AND place < stop) THEN 0 ELSE ? END
WHERE number = ? AND told IS NOT NULL
"""


def _where(connection: sqlite3.Connection, condition: str) -> Iterator[int]:
    """The numbers of the predictions of which COLUMN=VALUE holds."""
    column, equals, value = condition.partition("=")
    if not equals:
        raise JobError(f"--where {condition}: expected COLUMN=VALUE, such as customer=42")
    for number, row in connection.execute("SELECT number, row FROM predictions WHERE row IS NOT NULL"):
        asked = json.loads(row)
        if column in asked and _is(asked[column], value):
            yield number


def _is(value: Any, text: str) -> bool:
    """Whether a value of JSON is what a text says.

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


def _addressed(connection: sqlite3.Connection, rows: pa.Table) -> list[int]:
    """The numbers of the predictions at these addresses, of the journal's own files."""
    [[mark]] = connection.execute("SELECT value FROM facts WHERE name = 'mark'")
    found: list[int] = []
    for name, offset in zip(rows["fragment"].to_pylist(), rows["offset"].to_pylist(), strict=True):
        number = number_in(name, mark)
        file = connection.execute("SELECT first, stop FROM files WHERE number = ? AND done", [number]).fetchone()
        if file is not None:
            left_out = "SELECT place FROM labels WHERE place >= ? AND place < ? AND at = ? ORDER BY place"
            place = file[0] + offset
            for (hole,) in connection.execute(left_out, [*file, UNWRITTEN]):
                place += hole <= place
            found += [one for (one,) in connection.execute("SELECT number FROM labels WHERE place = ?", [place])]
    return found
