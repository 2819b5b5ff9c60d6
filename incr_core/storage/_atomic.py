"""Atomic writes: files and folders appear complete or not at all, even after a kill or with a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import BinaryIO

from incr_core.errors import StorageError

__all__ = ["numbers_in", "remove", "storage", "sync", "sync_all", "write_atomically", "write_folder"]


def write_atomically(path: str | Path, content: bytes | Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """Write a file atomically: temporary file beside it, fsync, rename, fsync of the folder.

    Args:
        path: The file.
        content: Its bytes, or a function that writes them.
        durable: False skips fsync, for data that can be recreated or is synced later. A kill still leaves the old file
            or the new one; a loss of power may leave neither.

    Raises:
        StorageError: The file cannot be written; `path` is unchanged and no temporary file remains.

    Example:
        >>> write_atomically("/dev/null/champion", b"3")
        Traceback (most recent call last):
        ...
        incr_core.errors.StorageError: /dev/null/champion: cannot be written: Not a directory (ENOTDIR); ...
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{path.name}")
    with storage(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content) if isinstance(content, bytes) else content(file)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        if durable:
            sync(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes], needed: Sequence[Path] = ()) -> None:
    """Create a new folder with all its files atomically. `path` must not exist yet.

    Args:
        path: The folder.
        files: Contents of its files, by name.
        needed: Files and folders, already written, that must be on disk before the folder appears.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_folder(Path(folder, "1"), {"a.txt": b"a", "b.txt": b"b"})
        ...     sorted(file.name for file in Path(folder).rglob("*"))
        ['1', 'a.txt', 'b.txt']
    """
    temporary = path.with_name(f".tmp-{path.name}")
    with storage(path):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            for name, content in files.items():
                (temporary / name).write_bytes(content)
            sync_all([*needed, *(temporary / name for name in files), temporary])
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync(path.parent)


def remove(path: Path) -> None:
    """Remove an unreferenced file or folder; a missing one is ignored.

    Example:
        >>> remove(Path("/nowhere/versions/1/model.safetensors"))
    """
    with storage(path), contextlib.suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def numbers_in(folder: Path) -> list[int]:
    """Return the files and folders in `folder` whose names are numbers, ascending; empty for a missing folder.

    Example:
        >>> numbers_in(Path("/nowhere/versions"))
        []
    """
    return sorted(int(file.name) for file in folder.iterdir() if file.name.isdigit()) if folder.is_dir() else []


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk.

    Example:
        >>> sync(Path("."))
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(paths: Sequence[Path]) -> None:
    """Wait until all of these are on disk; in parallel this takes little longer than for one.

    Example:
        >>> sync_all([Path("."), Path("..")])
    """
    asked = [_threads().submit(sync, path) for path in paths]
    wait(asked)  # all, even if one fails: afterwards the caller may remove the files
    for one in asked:
        one.result()


@cache
def _threads() -> ThreadPoolExecutor:
    """Return the sync threads, which are kept: starting four of them costs more than they save on a fast disk."""
    return ThreadPoolExecutor(4, thread_name_prefix="incr-sync")  # further threads would only wait for each other


os.register_at_fork(after_in_child=_threads.cache_clear)  # threads do not survive a fork


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Convert errors of the operating system to a StorageError about `path`.

    Example:
        >>> with storage(Path("runs/flights")):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        ...
        incr_core.errors.StorageError: runs/flights: cannot be written: No space left on device (ENOSPC); ...
    """
    try:
        yield
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "unknown")
        raise StorageError(
            f"{path}: cannot be written: {error.strerror or error} ({code}); earlier versions are intact; "
            "free space or make the folder writable, then run the same command again"
        ) from error
