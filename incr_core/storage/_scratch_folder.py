"""A temporary folder that does not outlive its process for long, however that ends."""

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
    """A new folder in the system's temporary one.

    A process that is killed leaves it behind. It goes when another process of this host makes one: a lock, which the
    kernel lets go with the process, tells whose folders are still in use.

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
        # Only now by the name that others look for: until it was locked, it looked like one that was left over.
        self.path = made.rename(made.with_name(made.name.replace(UNFINISHED, PREFIX)))

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _remove_left_over() -> None:
    """Remove the folders of processes that are gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # in use, of another user, or removed meanwhile
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
