"""Resolution of a job's path: a file, a folder, a glob or a Python callable, and the data files in it."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from incr_core._util import Catalogue, unknown
from incr_core.data._local_time import LocalTime
from incr_core.data._prepare import Prepare
from incr_core.data.sources._file_source import FileSource
from incr_core.data.sources._formats import FORMATS, format_of
from incr_core.data.sources._python_source import PythonSource
from incr_core.data.sources._remote_file import RemoteFile, remote_files
from incr_core.data.sources._settling import is_growable
from incr_core.data.sources._shared_reads import SharedReads
from incr_core.data.sources._source import Source
from incr_core.errors import ArgumentError, StreamError
from incr_core.storage import address_in, is_address

__all__ = ["SOURCES", "open_source"]

SOURCES: Catalogue[Callable[..., Any]] = Catalogue("a source of rows", {}, "incr.sources", error=StreamError)
"""Functions that `stream.path` can name instead of files."""


def open_source(
    source: str | Path | Callable[[], Iterable[Any]],
    format: str | None = None,
    *,
    tolerant: bool = False,
    settle: float = 0.0,
    local: LocalTime | None = None,
    reads: SharedReads | None = None,
    called: Mapping[str, str] | None = None,
    prepare: Prepare | None = None,
) -> Source:
    """Open a file, a folder, a glob (each on disk or at an address), "module:factory" or a callable as a source.

    Args:
        source: The path or callable.
        format: Format of the files; None uses their names.
        tolerant: Whether inspection skips unreadable files (`on_bad_file = "quarantine"`).
        settle: Files written within this many seconds wait (`Source.young`).
        local: Meaning of times without a zone.
        reads: Tables decoded by other readers of the same stream in this process.
        called: Names of columns in the files, if they differ.
        prepare: Function that all tables pass through.

    Raises:
        StreamError: There are no data files, or they cannot be listed.

    Example:
        >>> import fsspec
        >>> fsspec.filesystem("memory").pipe_file("/days/1.csv", b"x\\n3\\n")
        >>> open_source("memory://days").head().to_pylist()
        [{'x': 3}]
        >>> open_source("nowhere/at/all")
        Traceback (most recent call last):
        ...
        incr_core.errors.StreamError: stream.path: expected a file, a folder or a glob, got "nowhere/at/all", where
        nothing is; check the path (relative paths start at ...)
    """
    if format is not None and format not in FORMATS:
        raise ArgumentError(f"stream.format: {unknown('a format', format, FORMATS)}")
    if callable(source):
        return PythonSource(source, local, prepare)
    text, how = str(source), (tolerant, settle, local, reads, called, prepare)
    if is_address(source):
        return FileSource(_files_at(address_in(source), format), format, *how)
    path = Path(text).expanduser()
    try:
        if path.is_file():
            return FileSource({path.name: path}, format or format_of(path, strict=True), *how)
        if path.is_dir():
            return FileSource(_data_files(path, path.rglob("*"), format), format, *how)
        if glob.has_magic(text):
            root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
            found = map(Path, glob.glob(str(path), recursive=True))
            return FileSource(_data_files(root, found, format), format, *how)
    except OSError as error:
        raise StreamError(
            f"stream.path: expected files that can be read in {text}, got: {error.strerror} ({error.filename}); "
            "change its permissions, or name another path"
        ) from error
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text) or (text.isidentifier() and text in SOURCES.plugins()):
        return PythonSource(SOURCES.find(text, "stream.path"), local, prepare)
    raise StreamError(
        f'stream.path: expected a file, a folder or a glob, got "{text}", where nothing is; '
        f"check the path (relative paths start at {Path.cwd()})"
    )


def _files_at(address: str, format: str | None) -> dict[str, RemoteFile]:
    """Return the data files at an address; a single object is one under any name."""

    def kind(name: str) -> str | None:
        return format or format_of(name)

    files = remote_files(address, lambda name: _is_data(name, format), lambda name: is_growable(name, kind(name)))
    if len(files) == 1 and next(iter(files.values())).address == address:
        kind(address) or format_of(address, strict=True)
    return _in_order(files, address, format)


def _data_files(root: Path, found: Iterable[Path], format: str | None) -> dict[str, Path]:
    """Return the data files among `found`, by their name within `root`."""
    named = ((path.relative_to(root).as_posix(), path) for path in found)
    return _in_order({name: path for name, path in named if _is_data(name, format) and path.is_file()}, root, format)


def _is_data(name: str, format: str | None) -> bool:
    """Whether a file below a folder is data, by its name; names that begin with "." or "_" are ignored."""
    known = format_of(name) is not None if format is None else name.endswith(FORMATS[format])
    return known and not any(part.startswith((".", "_")) for part in name.split("/"))


F = TypeVar("F")


def _in_order(paths: dict[str, F], root: Path | str, format: str | None) -> dict[str, F]:
    """Sort files in the natural order of their names; raise a StreamError without files, or for names not in UTF-8."""
    if not paths:
        kinds = ", ".join(FORMATS) if format is None else format
        raise StreamError(f"stream.path: expected files of a known kind ({kinds}) in {root}, got none")
    for name in paths:
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # Python's representation of invalid UTF-8
            raise StreamError(f"stream.path: expected names in UTF-8, got {name} in {root}; rename it or take it out")
    return {name: paths[name] for name in sorted(paths, key=_natural)}


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that compares the numbers in a name as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]
