"""Journal of predictions and their labels: the invariants that every database must keep.

A prediction is in the journal before it is answered, and a label before it is acknowledged. Predictions are added and
never changed. Labels are assigned to files of labelled rows in the order of their arrival. The assignment is committed
before a file is written, so that after a kill in between the same file is written again, under the same name.

Several processes may use a journal at the same time. One of them leads: it writes the files and drops old predictions.
"""

from __future__ import annotations

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from incr_core.errors import StorageError
from incr_core.serving._statements import Execute

__all__ = ["UNWRITTEN", "Journal", "JournalledRow", "Kept", "as_text", "issued_number"]

UNWRITTEN = -1
"""Time of the label of an erased row that is in no file of labelled rows."""

CHUNK = 500
"""Rows looked up by one statement."""


@dataclass(frozen=True, slots=True)
class JournalledRow:
    """A row that was predicted.

    Attributes:
        row: Its values.
        at: Time of the prediction in microseconds.
        told: Its label and the values that came with it; None without a label.
        told_at: Time at which the label was received.
    """

    row: dict[str, Any]
    at: int
    told: dict[str, Any] | None = None
    told_at: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """Content of a journal: rows predicted and labelled so far, without a label yet, and dropped without one."""

    predicted: int
    labelled: int
    waiting: int
    dropped: int


class Journal(ABC):
    """Predictions and labels in a database. The statements are those that SQLite and PostgreSQL have in common.

    Args:
        most: Maximum number of predictions. The oldest are dropped first, and those without a label are counted.
        most_bytes: Maximum size of the predictions. The oldest are dropped first.

    Attributes:
        remote: Whether the database is another process. Then a thread records predictions.
        mark: The identity of the journal, with which its ids begin.
    """

    remote: ClassVar[bool] = False
    mark: str

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most, self.most_bytes = most, most_bytes

    @abstractmethod
    def record(self, rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], version: int) -> list[str]:
        """Record rows and their answers, and return the ids. A killed process loses none of them."""

    @abstractmethod
    def lead(self, patience: float = 0.0) -> bool:
        """Return whether this process leads. A process that leads does so until it ends.

        Args:
            patience: Seconds to wait for another process that leads.

        Raises:
            StorageError: The journal cannot be reached.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the journal, and let another process lead."""

    @abstractmethod
    def erasing(self) -> AbstractContextManager[Execute]:
        """Return a transaction that excludes all writers. Afterwards no file of the database contains deleted rows."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Execute]:
        """Return an `Execute` that reads labels, one statement at a time."""

    @abstractmethod
    def _writing_labels(self) -> AbstractContextManager[Execute]:
        """Return a transaction during which no other process adds labels."""

    @abstractmethod
    def _accepting(self) -> AbstractContextManager[Execute]:
        """Return such a transaction for adding labels, which are then on the disk. Results are read afterwards."""

    @abstractmethod
    def _live_bytes(self, execute: Execute) -> int:
        """Return the size of the stored predictions and labels."""

    def _begin(self, execute: Execute) -> None:
        """Identify the journal, in a transaction that excludes others."""
        for name, value in (("mark", secrets.token_hex(4)), ("floor", "0"), ("dropped", "0")):
            execute("INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING", [name, value])
        self.mark = str(_fact(execute, "mark"))

    @property
    def floor(self) -> int:
        """The number up to which predictions are dropped."""
        with self._reading() as execute:
            return int(_fact(execute, "floor"))

    def rows(self, told: Iterable[str]) -> dict[str, JournalledRow | None]:
        """Return the rows with these ids, None for rows that are no longer kept; ids never issued are left out."""
        numbers = {name: number for name in told if (number := issued_number(name, self.mark)) is not None}
        wanted, found = list(set(numbers.values())), dict[int, JournalledRow | None]()
        with self._reading() as execute:
            floor = int(_fact(execute, "floor"))
            for start in range(0, len(wanted), CHUNK):
                some = wanted[start : start + CHUNK]
                marks = ", ".join("?" * len(some))
                asked = execute(f"SELECT number, row, at FROM predictions WHERE number IN ({marks})", some)
                for number, row, at in asked.fetchall():
                    found[number] = None if row is None else JournalledRow(json.loads(row), at)
        found |= {number: None for number in wanted if number <= floor and number not in found}
        return {name: found[number] for name, number in numbers.items() if number in found}

    def label(self, told: Sequence[tuple[str, Mapping[str, Any]]]) -> list[bool]:
        """Record the labels of rows by their ids, and return whether each is new. They are on the disk then."""
        now = time.time_ns() // 1000
        with self._accepting() as execute:
            done = [
                execute(_LABELLED, [now, as_text(label), issued_number(name, self.mark) or 0]) for name, label in told
            ]
        return [one.rowcount == 1 for one in done]

    def dealt(self) -> int:
        """Return the place after the last label that is assigned to a file."""
        with self._reading() as execute:
            return int(execute(_DEALT).fetchone()[0])

    def due(self, stop: int | None = None, most: int = 50_000) -> Iterator[tuple[int, list[JournalledRow]]]:
        """Yield number and rows of the files of labelled rows that are not written yet; the same in repeated calls.

        Args:
            stop: Place of the first label that is not assigned yet. None assigns all.
            most: Maximum number of rows of a file.
        """
        self._expect_to_lead()
        with self._writing_labels() as execute:
            [dealt] = execute(_DEALT).fetchone()
            if stop is None:
                [stop] = execute("SELECT coalesce(max(place), 0) + 1 FROM labels").fetchone()
            for first in range(dealt, stop, most):
                execute(_DEAL, [first, min(first + most, stop)])
            due = execute("SELECT number, first, stop FROM files WHERE NOT done ORDER BY number").fetchall()
        for number, first, stop in due:
            with self._reading() as execute:
                found = execute(
                    f"{_JOINED} WHERE place >= ? AND place < ? AND row IS NOT NULL ORDER BY place", [first, stop]
                )
                rows = found.fetchall()
            yield number, [_labelled_row(*one) for _, *one in rows]

    def labelled(self, after: int, most: int = 50_000) -> list[tuple[int, JournalledRow]]:
        """Return the next labelled rows after a place, each with its place: the order in which labels arrived."""
        with self._reading() as execute:
            found = execute(f"{_JOINED} WHERE place > ? AND row IS NOT NULL ORDER BY place LIMIT ?", [after, most])
            return [(place, _labelled_row(*one)) for place, *one in found.fetchall()]

    def places(self, number: int) -> tuple[int, int]:
        """Return the first place of the labels of a file and the place after the last; (1, 1) if it is unknown."""
        with self._reading() as execute:
            found = execute("SELECT first, stop FROM files WHERE number = ?", [number]).fetchone()
        return (1, 1) if found is None else (int(found[0]), int(found[1]))

    def written(self, number: int) -> None:
        """Record that a file of labelled rows is on the disk."""
        self._expect_to_lead()
        with self._writing_labels() as execute:
            execute("UPDATE files SET done = TRUE WHERE number = ?", [number])

    def tidy(self) -> None:
        """Drop the oldest predictions if there are too many."""
        with self._reading() as execute:
            floor = int(_fact(execute, "floor"))
            held = _last(execute) - floor
            too_large = self._live_bytes(execute) > self.most_bytes
        excess = held - self.most
        if too_large:
            excess = max(excess, held // 10)
        if excess > 0:
            self._drop(floor + max(excess, self.most // 100))

    def _drop(self, floor: int) -> None:
        """Drop predictions up to a number with their labels, but none whose label is in no written file."""
        with self._writing_labels() as execute:
            [open_] = execute(_FIRST_OPEN).fetchone()
            floor = min(floor, _last(execute) if open_ is None else open_ - 1)
            [without] = execute(_WITHOUT_LABEL, [floor]).fetchone()
            execute("DELETE FROM predictions WHERE number <= ?", [floor])
            # The last label stays, so that no place is assigned twice.
            execute(
                "DELETE FROM labels WHERE number <= ? AND at >= 0 AND place < (SELECT max(place) FROM labels)", [floor]
            )
            # Rates and erasures find a label by its file. A file is no longer needed when all its rows are erased.
            execute(_DROP_FILES)
            dropped = int(_fact(execute, "dropped")) + without
            for name, value in (("floor", floor), ("dropped", dropped)):
                execute("UPDATE facts SET value = ? WHERE name = ?", [str(value), name])

    def kept(self) -> Kept:
        """Return the counts of the journal's content."""
        with self._reading() as execute:
            floor, dropped = int(_fact(execute, "floor")), int(_fact(execute, "dropped"))
            last = max(_last(execute), floor)
            [labelled] = execute("SELECT coalesce(max(place), 0) FROM labels").fetchone()
            [held] = execute("SELECT count(*) FROM labels WHERE number > ?", [floor]).fetchone()
        return Kept(last, int(labelled), last - floor - int(held), dropped)

    def _expect_to_lead(self) -> None:
        if not self.lead():
            raise StorageError(f"{self}: expected to lead this journal, but another server does; it writes the files")


def issued_number(told: str, mark: str) -> int | None:
    """Return the number in an id of the journal with this mark; None for other text.

    Example:
        >>> issued_number("9f3a01c2-1f", "9f3a01c2"), issued_number("9f3a01c2--1", "9f3a01c2")
        (31, None)
    """
    found, _, number = told.partition("-")
    if found != mark or not number or len(number) > 15 or not set(number) <= set("0123456789abcdef"):
        return None
    return int(number, 16) or None


def as_text(value: Any) -> str:
    """Return a value as compact JSON.

    Example:
        >>> as_text({"height": 170})
        '{"height":170}'
    """
    return json.dumps(value, separators=(",", ":"))


def _fact(execute: Execute, name: str) -> Any:
    return execute("SELECT value FROM facts WHERE name = ?", [name]).fetchone()[0]


def _last(execute: Execute) -> int:
    """Return the number of the newest prediction; 0 without one."""
    return int(execute("SELECT coalesce(max(number), 0) FROM predictions").fetchone()[0])


def _labelled_row(row: str, at: int, told: str, told_at: int) -> JournalledRow:
    return JournalledRow(json.loads(row), at, json.loads(told), told_at)


_LABELLED = """
INSERT INTO labels (place, number, at, told)
SELECT (SELECT coalesce(max(place), 0) + 1 FROM labels), number, ?, ?
FROM predictions WHERE number = ? AND row IS NOT NULL
ON CONFLICT DO NOTHING
"""
"""The row may have been erased in between."""

_DEALT = "SELECT coalesce(max(stop), 1) FROM files"

_DEAL = """
INSERT INTO files (number, first, stop, done)
VALUES ((SELECT coalesce(max(number), 0) + 1 FROM files), ?, ?, FALSE)
"""

_JOINED = """
SELECT place, row, predictions.at, told, labels.at FROM labels JOIN predictions USING (number)
"""

_FIRST_OPEN = """
SELECT min(number) FROM labels
WHERE place >= coalesce((SELECT min(first) FROM files WHERE NOT done), (SELECT max(stop) FROM files), 1)
"""

_WITHOUT_LABEL = """
SELECT count(*) FROM predictions LEFT JOIN labels USING (number) WHERE number <= ? AND place IS NULL
"""

_DROP_FILES = """
DELETE FROM files WHERE done AND number < (SELECT max(number) FROM files)
AND stop <= coalesce((SELECT min(place) FROM labels WHERE at >= 0), (SELECT max(stop) FROM files))
"""
