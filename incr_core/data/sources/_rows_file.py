"""A single file of rows that a person names: at a path, or at an address of an object store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from incr_core.data.sources._formats import kind_of, read_table
from incr_core.data.sources._remote_file import File, RemoteFile
from incr_core.errors import StreamError
from incr_core.storage import address_in, is_address

__all__ = ["read_rows_file"]


def read_rows_file(
    path: str | Path, columns: Sequence[str] | None = None, format: str | None = None, expected: str = "a file of rows"
) -> tuple[pa.Table, str]:
    """Read the `columns` of one file (all of them if None); returns its rows and its name.

    format: of files whose ending is of none. expected: what the file is to be, for errors.

    Raises StreamError where there is no such file, it cannot be read, or lacks a column.

    >>> import fsspec
    >>> fsspec.filesystem("memory").pipe_file("/named/rows.csv", b"x,y\\n1,2\\n")
    >>> table, name = read_rows_file("memory://named/rows.csv", ["y"])
    >>> table["y"].to_pylist(), name
    ([2], 'rows.csv')
    """
    file: File = RemoteFile(address_in(path)) if is_address(path) else Path(path)
    if not (file.exists() if isinstance(file, RemoteFile) else file.is_file()):
        got = "a folder" if isinstance(file, Path) and file.is_dir() else "nothing there"
        raise StreamError(f"{file}: expected {expected}, got {got}")
    return read_table(file, columns, kind_of(file, format), file.name), file.name
