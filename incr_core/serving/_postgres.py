"""A connection to PostgreSQL that reconnects after the database was unreachable."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from incr_core.errors import StorageError

__all__ = ["Connection", "shown_address"]

CONNECT = 5
"""Seconds to wait for a database that does not answer."""

UNANSWERED = 15_000
"""Milliseconds without acknowledgement after which a connection counts as lost."""

AGAIN = 0.5
"""Seconds after a failed attempt to connect during which no new attempt is made."""

SETTINGS = "SET synchronous_commit = on; SET statement_timeout = '30s'; SET tcp_keepalives_idle = 30"
"""A commit is on the disk when it returns. A client that has vanished loses its locks within minutes."""


class Connection:
    """One session for one thread at a time. After an error it is closed, and the next use connects again.

    Args:
        address: `postgresql://USER@HOST/DATABASE`.
        begin: Called with each new session.
    """

    def __init__(self, address: str, begin: Callable[[psycopg.Connection], object]) -> None:
        self._address, self._begin = address, begin
        self._session: psycopg.Connection | None = None
        self._failed: tuple[float, str] | None = None
        self._lock = threading.RLock()

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection]:
        """Yield the session, outside any transaction.

        Raises:
            StorageError: The database cannot be reached, or refused a statement.
        """
        with self._lock, self._named():
            session = self._alive()
            try:
                yield session
            except psycopg.Error:
                # Also if only a statement failed: a new session is in a known state.
                self._drop()
                raise

    def close(self) -> None:
        """Close the session."""
        with self._lock:
            self._drop()

    def _alive(self) -> psycopg.Connection:
        if self._session is not None and not _is_open(self._session):
            self._drop()
        if self._session is None:
            if self._failed is not None and time.monotonic() - self._failed[0] < AGAIN:
                raise self._away(self._failed[1])
            try:
                self._session = psycopg.connect(
                    self._address, autocommit=True, connect_timeout=CONNECT, tcp_user_timeout=UNANSWERED
                )
                self._session.execute(SETTINGS)
                self._begin(self._session)
            except psycopg.Error as error:
                self._drop()
                self._failed = time.monotonic(), _first_line(error)
                raise
            self._failed = None
        return self._session

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._away(_first_line(error)) from error

    def _away(self, reason: str) -> StorageError:
        place = shown_address(self._address)
        return StorageError(f"{place}: cannot be written or read: {reason}; it is tried again with each request")


def shown_address(address: str) -> str:
    """Return an address without its password, for messages.

    Example:
        >>> shown_address("postgresql://anna:secret@db:5433/flights")
        'postgresql://db:5433/flights'
    """
    try:
        parts = conninfo_to_dict(address)
    except psycopg.Error:
        return f"{urlsplit(address).scheme}://"
    host = str(parts.get("host", "")) + (f":{parts['port']}" if "port" in parts else "")
    return f"postgresql://{host}/{parts.get('dbname', '')}"


def _is_open(session: psycopg.Connection) -> bool:
    """Return whether an idle session is still connected. A database that ended has closed it, which a read detects."""
    if session.closed:
        return False
    try:
        if select.select([session.fileno()], [], [], 0)[0]:
            session.pgconn.consume_input()
    except (psycopg.Error, OSError, ValueError):
        return False
    return session.pgconn.status == psycopg.pq.ConnStatus.OK


def _first_line(error: psycopg.Error) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
