"""A journal by its place: a folder, or the address of a PostgreSQL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from incr_core.errors import ArgumentError
from incr_core.serving._journal import Journal
from incr_core.serving._sqlite_journal import SqliteJournal

__all__ = ["is_postgres", "open_journal"]

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""The beginning of an address. Messages have only this, since the rest may contain a password."""


def is_postgres(place: str | Path) -> bool:
    """Whether a journal is in a PostgreSQL.

    Raises:
        ArgumentError: The place is an address of something else.

    Example:
        >>> is_postgres("postgresql://db/flights"), is_postgres("journal")
        (True, False)
    """
    text = str(place)
    if text.startswith(("postgresql://", "postgres://")):
        return True
    if other := _ADDRESS.match(text):
        raise ArgumentError(
            f'--journal: expected a folder or "postgresql://USER@HOST/DATABASE", got an address of {other[0]}; '
            "write ./ before the name of a folder"
        )
    return False


def open_journal(place: str | Path, **options: Any) -> Journal:
    """Open the journal in a folder or at the address of a PostgreSQL.

    Args:
        place: `postgresql://USER@HOST/DATABASE`, or a folder.
        options: Limits of its size, and `create`, as in `SqliteJournal`.

    Raises:
        ArgumentError: The place is another address, or the package for PostgreSQL is not installed.
        StorageError: The journal cannot be opened.
    """
    if not is_postgres(place):
        return SqliteJournal(Path(place), **options)
    try:
        from incr_core.serving._postgres_journal import PostgresJournal
    except ModuleNotFoundError as missing:
        raise ArgumentError(
            f"--journal: needs {missing.name}, which is not installed; pip install 'incr[postgres]'"
        ) from missing
    return PostgresJournal(str(place), **options)
