"""Journal in one SQLite file, shared by the processes of a host."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from incr_core.errors import RunDirectoryError, StorageError
from incr_core.serving._journal import Journal, as_text
from incr_core.serving._statements import Execute
from incr_core.storage import Lock

__all__ = ["SqliteJournal"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS predictions (
    number INTEGER PRIMARY KEY, at INTEGER, version INTEGER, row TEXT, answer TEXT);
CREATE TABLE IF NOT EXISTS labels (
    place INTEGER PRIMARY KEY, number INTEGER UNIQUE, at INTEGER, told TEXT);
CREATE TABLE IF NOT EXISTS files (number INTEGER PRIMARY KEY, first INTEGER, stop INTEGER, done INTEGER);
"""

FILE = "journal.sqlite"
"""Name of the file."""

FULL = 1000
"""Pages of the write-ahead log after which it is moved into the file."""

PATIENCE = 30.0
"""Seconds to wait for another process that writes."""


class SqliteJournal(Journal):
    """The journal in a folder. Labels are synced; a loss of power may lose the predictions of the last moments.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> journal = SqliteJournal(Path(folder.name))
        >>> [one, other] = journal.record([({"height": 170}, {"value": 3.5}), ({}, {"value": 1.0})], version=4)
        >>> journal.rows([one])[one].row, journal.rows([one[:8] + "-99"])
        ({'height': 170}, {})
        >>> journal.label([(one, {"label": 4})]), journal.label([(one, {"label": 5})])
        ([True], [False])
        >>> [(file, [row.told for row in rows]) for file, rows in journal.due()]
        [(1, [{'label': 4}])]
        >>> journal.written(1)
        >>> list(journal.due()), journal.kept().waiting
        ([], 1)
        >>> journal.close(); folder.cleanup()
    """

    def __init__(self, folder: Path, *, most: int = 1_000_000, most_bytes: int = 2 << 30, create: bool = True) -> None:
        """Open the journal.

        Raises:
            StorageError: The folder cannot be written, or has no journal and `create` is False.
        """
        super().__init__(most, most_bytes)
        self.folder = folder
        self._path = folder / FILE
        if not create and not self._path.is_file():
            raise StorageError(f"--journal {folder}: expected the folder of a journal, found none; name it")
        with self._named():
            folder.mkdir(parents=True, exist_ok=True)
        self._leading = Lock(folder / ".leader")
        self._recording, self._joining = threading.Lock(), threading.Lock()
        with self._named():
            # Predictions and labels have separate connections, so that neither waits for the other's disk.
            self._predicting, self._labelling = self._connected(), self._connected()
            self._predicting.executescript(SCHEMA)
        with self._transaction(self._predicting) as execute:
            self._begin(execute)
            execute("UPDATE facts SET value = value WHERE name = 'mark'")  # this creates the log that is opened next
        with self._named():
            self._log = os.open(f"{self._path}-wal", os.O_RDONLY)

    def __str__(self) -> str:
        return str(self._path)

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=PATIENCE, check_same_thread=False, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        return connection

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the journal in errors of the disk and of SQLite."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            remedy = "make room, or name another --journal"
            raise StorageError(f"{self._path}: cannot be written or read: {reason}; {remedy}") from error

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[Execute]:
        with self._named():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection.execute
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[Execute]:
        with self._named(), self._joining:
            yield self._labelling.execute

    @contextmanager
    def _writing_labels(self) -> Iterator[Execute]:
        with self._joining, self._transaction(self._labelling) as execute:
            yield execute

    @contextmanager
    def _accepting(self) -> Iterator[Execute]:
        with self._joining:
            with self._transaction(self._labelling) as execute:
                yield execute
            with self._named():
                os.fsync(self._log)  # after the transaction, so that predictions do not wait for the disk

    def record(self, rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], version: int) -> list[str]:
        """Record rows and their answers, and return the ids."""
        now = time.time_ns() // 1000
        with self._recording, self._transaction(self._predicting) as execute:
            [first] = execute(_NEXT).fetchone()
            kept = [
                (first + place, now, version, as_text(row), as_text(answer)) for place, (row, answer) in enumerate(rows)
            ]
            self._predicting.executemany("INSERT INTO predictions VALUES (?, ?, ?, ?, ?)", kept)
        return [f"{self.mark}-{number:x}" for number in range(first, first + len(kept))]

    def lead(self, patience: float = 0.0) -> bool:
        """Return whether this process leads: it has the lock of a file."""
        with self._joining:
            if not self._leading.taken:
                try:
                    self._leading.take(patience)
                except RunDirectoryError:
                    return False
        return True

    def tidy(self) -> None:
        """Drop the oldest predictions if there are too many, and move the write-ahead log into the file."""
        super().tidy()
        with self._reading() as execute:
            [size] = execute("PRAGMA page_size").fetchone()
            if os.fstat(self._log).st_size > FULL * size:
                execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _live_bytes(self, execute: Execute) -> int:
        pages, free, size = (execute(f"PRAGMA {name}").fetchone()[0] for name in _SIZES)
        return int((pages - free) * size)

    @contextmanager
    def erasing(self) -> Iterator[Execute]:
        """Return a transaction that excludes all writers and overwrites what it deletes."""
        with self._named(), closing(self._connected()) as connection:
            connection.execute("PRAGMA secure_delete=ON")
            with self._transaction(connection) as execute:
                yield execute
            # The write-ahead log contains the rows too, until it is moved into the file and truncated.
            [busy, _, _] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise StorageError(
                    f"{self._path}: expected to truncate its log of writes, but a process reads it; try again"
                )

    def close(self) -> None:
        """Close the file, and let another process lead."""
        with self._recording, self._joining:
            self._predicting.close()
            self._labelling.close()
            os.close(self._log)
            self._leading.release()


_NEXT = """
SELECT 1 + coalesce(
    (SELECT max(number) FROM predictions), (SELECT CAST(value AS INTEGER) FROM facts WHERE name = 'floor'))
"""

_SIZES = ("page_count", "freelist_count", "page_size")
