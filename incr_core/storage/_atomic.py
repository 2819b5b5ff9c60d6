"""Files and folders that appear whole or not at all, whatever is killed and however full the disk is."""

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
    """Write a file through a temporary one beside it: temp, fsync, rename, fsync of the folder.

    durable: False for what can be made again, or is synced later: a kill leaves the old file or the new one, a loss of
    power may leave neither.

    Raises StorageError, leaving what was at `path` as it was and no temporary file.

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
    """Make a new folder appear with all its files, or not at all. `path` must not exist yet.

    needed: files and folders, written already, that must be on the disk before it appears.

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
    """Remove a file or a folder that nothing refers to any more; none there is fine.

    >>> remove(Path("/nowhere/versions/1/model.safetensors"))
    """
    with storage(path), contextlib.suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def numbers_in(folder: Path) -> list[int]:
    """The files and folders in `folder` that are named by a number, ascending; a folder that is not there has none.

    >>> numbers_in(Path("/nowhere/versions"))
    []
    """
    return sorted(int(file.name) for file in folder.iterdir() if file.name.isdigit()) if folder.is_dir() else []


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    >>> sync(Path("."))
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(paths: Sequence[Path]) -> None:
    """Wait until all of these are on the disk; asked for side by side, they take little longer than one of them.

    >>> sync_all([Path("."), Path("..")])
    """
    asked = [_threads().submit(sync, path) for path in paths]
    wait(asked)  # where one is refused too: nothing may be at work on what its caller removes then
    for one in asked:
        one.result()


@cache
def _threads() -> ThreadPoolExecutor:
    """Those that wait for the disk, kept: to start four of them costs a commit more than they save on a quick disk."""
    return ThreadPoolExecutor(4, thread_name_prefix="incr-sync")  # more wait for one another


os.register_at_fork(after_in_child=_threads.cache_clear)  # a process that was forked has none of its parent's threads


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses here into a StorageError about `path`.

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
