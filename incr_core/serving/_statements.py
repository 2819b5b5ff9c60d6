"""Types of SQL statements and results that sqlite3 and psycopg have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Cursor", "Execute"]


class Cursor(Protocol):
    """Result of a statement, in sqlite3 and in psycopg."""

    @property
    def rowcount(self) -> int:
        """Number of rows that the statement changed."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""

    def fetchall(self) -> list[Any]:
        """Return all remaining rows."""


class Execute(Protocol):
    """Execution of a statement within a transaction. Values replace its question marks."""

    def __call__(self, sql: str, values: Sequence[Any] = ..., /) -> Cursor:
        """Execute the statement."""
