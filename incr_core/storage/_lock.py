"""A file lock for a single writer, released by the kernel when the process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from incr_core.errors import RunDirectoryError
from incr_core.storage._atomic import storage

__all__ = ["Lock"]

LASTING = "run"
"""Last word in the lock file if the lock is held for the duration of a run."""

OF_LOOKS = 10.0
"""Seconds to wait if no run is in progress: other commands hold the lock briefly, one after another."""


class Lock:
    """An exclusive lock on the folder of the file `path`, which names the process that holds it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lock = Lock(Path(folder, ".lock"))
        ...     with lock.held():
        ...         lock.taken
        ...     lock.taken
        True
        False
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    @property
    def taken(self) -> bool:
        """Whether this object holds the lock."""
        return self._file is not None

    def take(self, patience: float = 0.5, *, lasting: bool = False) -> None:
        """Take the lock.

        Args:
            patience: Seconds to wait for processes that hold the lock briefly.
            lasting: Whether the lock is held for the duration of a run, so that `holder` reports it. Such a caller
                waits longer for brief holders, because there may be several in a row.

        Raises:
            RunDirectoryError: Another process holds the lock.
        """
        with storage(self.path):
            file = open(self.path, "a+")  # noqa: SIM115, it stays open for as long as the lock is held
        begun = time.monotonic()
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waits = patience if not lasting or self._writes() else max(patience, OF_LOOKS)
                if time.monotonic() < begun + waits:
                    time.sleep(0.02)
                    continue
                file.close()
                raise RunDirectoryError(
                    f"{self.path.parent}: another process ({self._named()}) is writing this run; "
                    "wait for it, stop it (incr stop), or choose another --out"
                ) from None
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}" + f" {LASTING}" * lasting)
        file.flush()
        self._file = file
        _held.add(self)

    def push(self) -> None:
        """Do nothing: files in a folder need no push."""

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def holder(self) -> str | None:
        """Return the process that holds the lock for a run, as "pid 123 on HOST", or None."""
        return self._named() if self._is_held() and self._written().endswith(f" {LASTING}") else None

    def holder_here(self) -> int | None:
        """Return the id of that process, if it is on this host."""
        pid, host = [*self._written().split(" "), ""][:2]
        return int(pid) if self.holder() is not None and host == socket.gethostname() else None

    def _writes(self) -> bool:
        """Whether the process named in the file took the lock for a run and may be alive."""
        pid, host, *lasting = [*self._written().split(" "), "", ""][:3]
        if lasting != [LASTING]:
            return False
        try:
            if host == socket.gethostname():
                os.kill(int(pid), 0)
        except (ProcessLookupError, ValueError):
            return False
        except PermissionError:  # a live process of another user
            pass
        return True

    def _is_held(self) -> bool:
        if self.taken:
            return True
        try:
            with open(self.path) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _written(self) -> str:
        try:
            return self.path.read_text()
        except OSError:
            return ""

    def _named(self) -> str:
        pid, host = [*self._written().split(" "), ""][:2]
        return f"pid {pid} on {host}" if host else f"pid {pid or 'unknown'}"

    @contextlib.contextmanager
    def held(self, patience: float = 0.5) -> Iterator[None]:
        """Hold the lock within the context, unless this object holds it already."""
        if self.taken:
            yield
            return
        self.take(patience)
        try:
            yield
        finally:
            self.release()


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _drop_in_child() -> None:
    # A forked child inherits the locks and would keep them after this process has ended.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_drop_in_child)
