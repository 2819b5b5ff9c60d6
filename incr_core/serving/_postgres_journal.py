"""Journal in PostgreSQL, shared by the servers of several hosts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import psycopg

from incr_core.errors import StorageError
from incr_core.serving._journal import Journal, as_text
from incr_core.serving._postgres import Connection, shown_address
from incr_core.serving._statements import Cursor, Execute

__all__ = ["PostgresJournal"]

SCHEMA = """
CREATE SCHEMA IF NOT EXISTS incr;
SET search_path TO incr;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS predictions (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at BIGINT, version BIGINT, row TEXT, answer TEXT);
CREATE TABLE IF NOT EXISTS labels (place BIGINT PRIMARY KEY, number BIGINT UNIQUE, at BIGINT, told TEXT);
CREATE TABLE IF NOT EXISTS files (number BIGINT PRIMARY KEY, first BIGINT, stop BIGINT, done BOOLEAN);
"""

EXISTS = "SELECT to_regclass('incr.predictions') IS NOT NULL"

OPENING, LEADING = 0x696E6372, 0x696E6373
"""Keys of advisory locks: one to create the tables, one to lead."""

NEWEST = 1000
"""Number of newest predictions whose mean size is taken for all."""


class PostgresJournal(Journal):
    """The journal in the schema `incr` of a database. Predictions and labels are on its disk when they are answered.

    Numbers come from a sequence. A failed transaction or a crash of the database leaves numbers unused. `kept` counts
    these as predictions.

    Args:
        address: `postgresql://USER@HOST/DATABASE`.
        most, most_bytes: As in `Journal`.
        create: Whether to create the tables.

    Raises:
        StorageError: The database cannot be reached, or has no journal and `create` is False.
    """

    remote = True

    def __init__(self, address: str, *, most: int = 1_000_000, most_bytes: int = 2 << 30, create: bool = True) -> None:
        super().__init__(most, most_bytes)
        self._shown = shown_address(address)
        self._leads = False
        self._erasing = Connection(address, _enter)
        self._predicting = Connection(address, _enter)
        self._labelling = Connection(address, self._enter_anew)
        with self._erasing.session() as session:
            [there] = session.execute(EXISTS).fetchone() or (False,)
            if not create and not there:
                raise StorageError(f"--journal {self}: expected the database of a journal, found none; name it")
            with session.transaction():
                session.execute("SELECT pg_advisory_xact_lock(%s)", [OPENING])
                session.execute(SCHEMA)
                self._begin(_executing(session))
        self._erasing.close()

    def __str__(self) -> str:
        return self._shown

    def _enter_anew(self, session: psycopg.Connection) -> None:
        _enter(session)
        self._leads = False  # the lock belonged to the previous session

    def record(self, rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], version: int) -> list[str]:
        """Record rows and their answers, and return the ids."""
        texts = [[as_text(row) for row, _ in rows], [as_text(answer) for _, answer in rows]]
        with self._predicting.session() as session:
            numbers = session.execute(_RECORD, [time.time_ns() // 1000, version, *texts]).fetchall()
        return [f"{self.mark}-{number:x}" for (number,) in numbers]

    def lead(self, patience: float = 0.0) -> bool:
        """Return whether this process leads: its session has an advisory lock."""
        begun = time.monotonic()
        while True:
            with self._labelling.session() as session:
                if not self._leads:
                    found = session.execute("SELECT pg_try_advisory_lock(%s)", [LEADING]).fetchone()
                    self._leads = found is not None and bool(found[0])
                if self._leads or time.monotonic() - begun >= patience:
                    return self._leads
            time.sleep(0.05)

    @contextmanager
    def _reading(self) -> Iterator[Execute]:
        with self._labelling.session() as session:
            yield _executing(session)

    @contextmanager
    def _writing_labels(self) -> Iterator[Execute]:
        with self._labelling.session() as session, session.transaction():
            session.execute(_ALONE)
            yield _executing(session)

    @contextmanager
    def _accepting(self) -> Iterator[Execute]:
        # In a pipeline, many labels wait only once for the network.
        with self._labelling.session() as session, session.transaction(), session.pipeline():
            session.execute(_ALONE)
            yield _executing(session)

    def _live_bytes(self, execute: Execute) -> int:
        # The size of the files would include rows that are deleted and not vacuumed.
        [held, size] = execute(_SIZE, [NEWEST]).fetchone()
        return int(held * size)

    @contextmanager
    def erasing(self) -> Iterator[Execute]:
        """Return a transaction that excludes all writers. Afterwards the tables are rewritten."""
        with self._erasing.session() as session, ExitStack() as ended:
            ended.callback(self._erasing.close)
            session.execute("SET statement_timeout = 0")
            with session.transaction():
                session.execute("LOCK TABLE predictions, labels IN EXCLUSIVE MODE")
                yield _executing(session)
            session.execute("VACUUM (FULL) predictions, labels")

    def close(self) -> None:
        """Close the sessions, and let another process lead."""
        for one in (self._predicting, self._labelling, self._erasing):
            one.close()


def _enter(session: psycopg.Connection) -> None:
    session.execute("SET search_path TO incr")


def _executing(session: psycopg.Connection) -> Execute:
    def execute(sql: str, values: Sequence[Any] = (), /) -> Cursor:
        return session.execute(_with_marks(sql), values)

    return execute


@cache
def _with_marks(sql: str) -> bytes:
    """Return a statement with psycopg's marks for values."""
    return sql.replace("?", "%s").encode()


_ALONE = "LOCK TABLE labels IN EXCLUSIVE MODE"
"""The lock assigns places in the order of commits, without gaps. Reads continue."""

_RECORD = """
INSERT INTO predictions (at, version, row, answer)
SELECT %s, %s, one.row, one.answer FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS one (row, answer, place)
ORDER BY place RETURNING number
"""

_SIZE = """
SELECT (SELECT coalesce(max(number) - min(number) + 1, 0) FROM predictions), coalesce(avg(bytes), 0) FROM (
    SELECT coalesce(octet_length(row), 0) + coalesce(octet_length(answer), 0) AS bytes
    FROM predictions ORDER BY number DESC LIMIT ?) AS newest
"""
