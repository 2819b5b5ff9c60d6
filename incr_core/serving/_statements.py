"""Statements of SQL and their results, as sqlite3 and psycopg have them in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Cursor", "Execute"]


class Cursor(Protocol):
    """Result of a statement, of sqlite3 and of psycopg alike."""

    @property
    def rowcount(self) -> int:
        """Number of rows that the statement changed."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""


class Execute(Protocol):
    """Execution of a statement within a transaction; values stand for its question marks."""

    def __call__(self, sql: str, values: Sequence[Any] = ..., /) -> Cursor:
        """Execute the statement."""
