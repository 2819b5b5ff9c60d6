"""What a server has predicted, and the labels that came for it: one SQLite file, of a bounded size.

A prediction is in the journal before it is answered, a label before it is acknowledged; a killed process loses neither,
and labels are on the disk too. What is predicted is added and never changed. Labels are dealt to files of labelled rows
in the order in which they came: which labels are in which file is committed before the file is written, so a kill in
between has the same file written again, under the same name.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incr_core.errors import RunDirectoryError, StorageError
from incr_core.storage import Lock

__all__ = ["Journal", "JournalledRow", "Kept"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS predictions (
    number INTEGER PRIMARY KEY, at INTEGER, version INTEGER, row TEXT, answer TEXT);
CREATE TABLE IF NOT EXISTS labels (
    place INTEGER PRIMARY KEY, number INTEGER UNIQUE, at INTEGER, told TEXT);
CREATE TABLE IF NOT EXISTS files (number INTEGER PRIMARY KEY, first INTEGER, stop INTEGER, done INTEGER);
"""

FILE = "journal.sqlite"
"""Its name."""

UNWRITTEN = -1
"""When the label of an erased row came that is in no file of labelled rows."""

FULL = 1000
"""Pages of the write-ahead log after which it is moved into the file."""


@dataclass(frozen=True, slots=True)
class JournalledRow:
    """A row that was predicted, and when, in microseconds; told: its label and what else came with it, and when."""

    row: dict[str, Any]
    at: int
    told: dict[str, Any] | None = None
    told_at: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """How much a journal holds: rows predicted and labelled so far, without a label yet, and dropped without one."""

    predicted: int
    labelled: int
    waiting: int
    dropped: int


class Journal:
    """The journal in a folder, of one server at a time.

    Args:
        folder: where it is kept.
        most: how many predictions are kept at most; the oldest go first, and those without a label are counted.
        most_bytes: how large the file may be, likewise.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> journal = Journal(Path(folder.name))
    >>> [one, other] = journal.record([({"height": 170}, {"value": 3.5}), ({}, {"value": 1.0})], version=4)
    >>> journal.row(one).row, journal.row(one[:8] + "-99") is None
    ({'height': 170}, True)
    >>> journal.label([(one, {"label": 4})]), journal.label([(one, {"label": 5})])
    ([True], [False])
    >>> [(file, [row.told for row in rows]) for file, rows in journal.due()]
    [(1, [{'label': 4}])]
    >>> journal.written(1)
    >>> list(journal.due()), journal.kept().waiting
    ([], 1)
    >>> journal.close(); folder.cleanup()
    """

    def __init__(self, folder: Path, *, most: int = 1_000_000, most_bytes: int = 2 << 30) -> None:
        self.folder, self.most, self.most_bytes = folder, most, most_bytes
        self._path = folder / FILE
        with self._named():
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(folder / ".lock")
        try:
            self._lock.take()
        except RunDirectoryError:
            raise StorageError(f"{folder}: is the journal of another server; end that, or name another") from None
        with self._named():
            # Predictions and labels each have a connection, so that neither waits for the other's disk.
            self._predicting, self._labelling = self._connected(), self._connected()
            self._predicting.executescript(SCHEMA)
            facts: dict[str, Any] = dict(self._predicting.execute("SELECT name, value FROM facts"))
            if "mark" not in facts:
                facts |= {"mark": secrets.token_hex(4), "floor": 0, "dropped": 0, "starts": 0}
                self._predicting.executemany("INSERT INTO facts VALUES (?, ?)", list(facts.items()))
            self._predicting.execute("UPDATE facts SET value = value + 1 WHERE name = 'starts'")
            [[last]] = self._predicting.execute("SELECT max(number) FROM predictions")
            self._log = os.open(f"{self._path}-wal", os.O_RDONLY)
        self.mark = str(facts["mark"])
        """Which journal this is: the beginning of its ids."""
        self.floor = int(facts["floor"])
        """The number up to which predictions are no longer kept."""
        self._next = max(last or 0, self.floor) + 1
        self._dropped = int(facts["dropped"])
        self._writing, self._joining = threading.Lock(), threading.Lock()

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30, check_same_thread=False, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        return connection

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the journal where it cannot be written or read."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            remedy = "make room, or name another --journal"
            raise StorageError(f"{self._path}: cannot be written or read: {reason}; {remedy}") from error

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        with self._named():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def record(self, rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], version: int) -> list[str]:
        """Keep rows and what was answered for them; returns their ids. A killed process loses none of them."""
        now = time.time_ns() // 1000
        with self._writing:
            first = self._next
            kept = [
                (first + place, now, version, _text(row), _text(answer)) for place, (row, answer) in enumerate(rows)
            ]
            with self._transaction(self._predicting) as writes:
                writes.executemany("INSERT INTO predictions VALUES (?, ?, ?, ?, ?)", kept)
            self._next = first + len(kept)
        return [f"{self.mark}-{number:x}" for number in range(first, first + len(kept))]

    def number(self, told: str) -> int | None:
        """The number in an id that this journal has given; None for others."""
        mark, _, number = told.partition("-")
        if mark != self.mark or not number or len(number) > 15 or not set(number) <= set("0123456789abcdef"):
            return None
        found = int(number, 16)
        return found if 0 < found < self._next else None

    def row(self, told: str) -> JournalledRow | None:
        """The row with an id; None where there is none, or none any more."""
        number = self.number(told)
        if number is None:
            return None
        with self._named(), self._joining:
            found = self._labelling.execute(
                "SELECT row, at FROM predictions WHERE number = ? AND row IS NOT NULL", [number]
            ).fetchone()
        return None if found is None else JournalledRow(json.loads(found[0]), found[1])

    def label(self, told: Sequence[tuple[str, Mapping[str, Any]]]) -> list[bool]:
        """Keep what is told of rows by their ids: whether each is new. It is on the disk when this returns."""
        now = time.time_ns() // 1000
        new = []
        with self._joining:
            with self._transaction(self._labelling) as writes:
                for name, label in told:
                    number = self.number(name)
                    if number is None or number <= self.floor:
                        new.append(False)
                        continue
                    done = writes.execute(_LABELLED, [now, _text(label), number])
                    new.append(done.rowcount == 1)
            with self._named():
                os.fsync(self._log)  # beside the transaction, so that predictions need not wait for the disk
        return new

    def dealt(self) -> int:
        """The place behind the last label that is dealt to a file."""
        with self._named(), self._joining:
            [[dealt]] = self._labelling.execute("SELECT coalesce(max(stop), 1) FROM files")
        return int(dealt)

    def due(self, stop: int | None = None, most: int = 50_000) -> Iterator[tuple[int, list[JournalledRow]]]:
        """The files of labelled rows that are not written yet: their numbers and rows, always the same for a number.

        stop: the place of the first label that is not to be dealt to a file yet; None: all are.
        """
        with self._joining, self._transaction(self._labelling) as writes:
            [[dealt]] = writes.execute("SELECT coalesce(max(stop), 1) FROM files")
            if stop is None:
                [[stop]] = writes.execute("SELECT coalesce(max(place), 0) + 1 FROM labels")
            for first in range(dealt, stop, most):
                writes.execute(
                    "INSERT INTO files (first, stop, done) VALUES (?, ?, 0)", [first, min(first + most, stop)]
                )
            due = writes.execute("SELECT number, first, stop FROM files WHERE NOT done ORDER BY number").fetchall()
        for number, first, stop in due:
            with self._named(), self._joining:
                found = self._labelling.execute(
                    "SELECT row, predictions.at, told, labels.at FROM labels JOIN predictions USING (number) "
                    "WHERE place >= ? AND place < ? AND row IS NOT NULL ORDER BY place",
                    [first, stop],
                ).fetchall()
            yield number, [JournalledRow(json.loads(row), at, json.loads(told), then) for row, at, told, then in found]

    def labelled(self, after: int, most: int = 50_000) -> list[tuple[int, JournalledRow]]:
        """The next rows with labels behind a place: the place of each, its number in the order in which labels came."""
        with self._named(), self._joining:
            found = self._labelling.execute(
                "SELECT place, row, predictions.at, told, labels.at FROM labels JOIN predictions USING (number) "
                "WHERE place > ? AND row IS NOT NULL ORDER BY place LIMIT ?",
                [after, most],
            ).fetchall()
        return [
            (place, JournalledRow(json.loads(row), at, json.loads(told), then)) for place, row, at, told, then in found
        ]

    def places(self, number: int) -> tuple[int, int]:
        """The first place of the labels of a file, and the one behind its last; (1, 1) where it is not known."""
        with self._named(), self._joining:
            found = self._labelling.execute("SELECT first, stop FROM files WHERE number = ?", [number]).fetchone()
        return (1, 1) if found is None else (int(found[0]), int(found[1]))

    def written(self, number: int) -> None:
        """A file of labelled rows is on the disk."""
        with self._joining, self._transaction(self._labelling) as writes:
            writes.execute("UPDATE files SET done = 1 WHERE number = ?", [number])

    def tidy(self) -> None:
        """Drop the oldest predictions where there are too many, and move the log of writes into the file."""
        with self._joining:
            with self._named():
                [[pages]] = self._labelling.execute("PRAGMA page_count")
                [[free]] = self._labelling.execute("PRAGMA freelist_count")
                [[size]] = self._labelling.execute("PRAGMA page_size")
            held = self._next - 1 - self.floor
            excess = held - self.most
            if (pages - free) * size > self.most_bytes:
                excess = max(excess, held // 10)
            if excess > 0:
                self._drop(self.floor + max(excess, self.most // 100))
            with self._named():
                if os.fstat(self._log).st_size > FULL * size:
                    self._labelling.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _drop(self, floor: int) -> None:
        """Forget the predictions up to a number, and their labels; not what stands in files that are not written."""
        with self._transaction(self._labelling) as writes:
            [[open_]] = writes.execute(
                "SELECT min(number) FROM labels WHERE place >= coalesce("
                "(SELECT min(first) FROM files WHERE NOT done), (SELECT max(stop) FROM files), 1)"
            )
            floor = min(floor, self._next - 1) if open_ is None else min(floor, open_ - 1)
            [[without]] = writes.execute(
                "SELECT count(*) FROM predictions LEFT JOIN labels USING (number) WHERE number <= ? AND place IS NULL",
                [floor],
            )
            writes.execute("DELETE FROM predictions WHERE number <= ?", [floor])
            # The last label stays, so that places are never given twice.
            writes.execute(
                "DELETE FROM labels WHERE number <= ? AND at >= 0 AND place < (SELECT max(place) FROM labels)", [floor]
            )
            # Rates and erasures find a label by the file it is in. What was erased alone needs no file.
            writes.execute(
                "DELETE FROM files WHERE done AND number < (SELECT max(number) FROM files) AND stop <= coalesce("
                "(SELECT min(place) FROM labels WHERE at >= 0), (SELECT max(stop) FROM files))"
            )
            facts = {"floor": floor, "dropped": self._dropped + without}
            writes.executemany("UPDATE facts SET value = ? WHERE name = ?", [(to, name) for name, to in facts.items()])
        self.floor, self._dropped = floor, self._dropped + without

    def kept(self) -> Kept:
        """How much it holds."""
        with self._named(), self._joining:
            [[labelled]] = self._labelling.execute("SELECT coalesce(max(place), 0) FROM labels")
            [[held]] = self._labelling.execute("SELECT count(*) FROM labels WHERE number > ?", [self.floor])
        return Kept(self._next - 1, labelled, self._next - 1 - self.floor - held, self._dropped)

    def close(self) -> None:
        """Close the file, and let another server have it."""
        with self._writing, self._joining:
            self._predicting.close()
            self._labelling.close()
            os.close(self._log)
            self._lock.release()


_LABELLED = """
INSERT OR IGNORE INTO labels (number, at, told)
SELECT number, ?, ? FROM predictions WHERE number = ? AND row IS NOT NULL
"""
"""The row may have been erased a moment ago."""


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
