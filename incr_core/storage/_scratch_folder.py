"""A temporary folder that is removed soon after its process ends, even by a kill."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

__all__ = ["ScratchFolder"]

PREFIX, UNFINISHED = "incr-copy-", "incr-new-"


class ScratchFolder:
    """A new folder in the system's temporary folder.

    A killed process leaves its folder behind. The next process of this host that creates one removes it: a file lock,
    which the kernel releases when a process ends, marks the folders in use.

    Example:
        >>> folder = ScratchFolder()
        >>> folder.path.is_dir(); folder.close(); folder.path.exists()
        True
        False
    """

    def __init__(self) -> None:
        _remove_left_over()
        made = Path(tempfile.mkdtemp(prefix=UNFINISHED))
        self._lock = os.open(made, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Renamed only now: before it was locked, it would have looked like a leftover.
        self.path = made.rename(made.with_name(made.name.replace(UNFINISHED, PREFIX)))

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _remove_left_over() -> None:
    """Remove the folders of processes that have ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # in use, of another user, or removed meanwhile
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
