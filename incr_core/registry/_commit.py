"""The small data of a version: one archive of its manifest and of the rows it adds to the run's tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from incr_core.storage import (
    archive_bytes,
    checksummed,
    parquet_bytes,
    parse_checksummed,
    read_archive,
    read_table,
    remove,
    write_atomically,
)

__all__ = [
    "COMMIT",
    "MODEL",
    "STATE",
    "commit_bytes",
    "drop_weights",
    "has_weights",
    "read_commit",
    "rewrite_table",
]

MODEL, COMMIT, STATE = "model.safetensors", "commit.zip", "state.zip"
_MANIFEST = "manifest.json"


def commit_bytes(manifest: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> bytes:
    """Return the archive of a version.

    Example:
        >>> list(commit_bytes({"version": 1}, {})[:2])
        [80, 75]
    """
    told = {f"{name}.parquet": parquet_bytes(table) for name, table in tables.items()}
    return archive_bytes({_MANIFEST: checksummed(manifest), **told})


def read_commit(folder: Path) -> tuple[dict[str, Any], dict[str, pa.Table]]:
    """Read the manifest of a version and its rows of the run's tables, verified; see `_version` for an example.

    Example:
        >>> read_commit(Path("/nowhere/versions/1"))
        Traceback (most recent call last):
        ...
        incr_core.errors.CheckpointError: /nowhere/versions/1/commit.zip: expected a file, found none; ...
    """
    files = read_archive(folder / COMMIT)
    manifest = parse_checksummed(files.pop(_MANIFEST), folder / COMMIT)
    return manifest, {name.removesuffix(".parquet"): read_table(name, content) for name, content in files.items()}


def rewrite_table(folder: Path, name: str, change: Callable[[pa.Table], tuple[pa.Table, int]]) -> None:
    """Change rows of a version's table; `change` returns their number, and if it is 0 nothing is written.

    Example:
        >>> import tempfile
        >>> from incr_core.registry._version import write_version
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = Path(place, "1")
        ...     told = write_version(folder, {}, {"quarantine": pa.table({"value": ["n/a"]})}, {"version": 1}, {})
        ...     rewrite_table(folder, "quarantine", lambda table: (pa.table({"value": ["gone"]}), 1))
        ...     read_commit(folder)[1]["quarantine"]["value"].to_pylist()
        ['gone']
    """
    manifest, tables = read_commit(folder)
    if name not in tables:
        return
    table, count = change(tables[name])
    if count:
        write_atomically(folder / COMMIT, commit_bytes(manifest, tables | {name: table}))


def has_weights(folder: Path) -> bool:
    """Return whether a version exists and is not pruned.

    Example:
        >>> has_weights(Path("/nowhere/versions/1"))
        False
    """
    return (folder / MODEL).exists()


def drop_weights(folder: Path) -> None:
    """Remove a version's weights and the files that are kept as long as these.

    Example:
        >>> drop_weights(Path("/nowhere/versions/1"))
    """
    remove(folder / MODEL)  # first: a version without weights is recognised as being removed
    for file in folder.glob("*"):
        if file.suffix in (".safetensors", ".arrow") or file.name == STATE:
            remove(file)
