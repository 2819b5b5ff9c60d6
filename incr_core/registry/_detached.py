"""A detached loop: its place, progress and exit status, in files of the run directory.

    DIR/detached.json    the holder of the run and, after the loop has ended, its exit code and error
    DIR/progress.json    the data of a progress bar, written often and not synced

Any host that can read the folder can therefore follow the run.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from incr_core._util import json_text
from incr_core.storage import storage, write_atomically

__all__ = ["Detached", "read_progress", "withdraw_detached", "write_progress"]

RECORD, PROGRESS = "detached.json", "progress.json"


@dataclass(frozen=True, slots=True)
class Detached:
    """A detached loop, as recorded in the run directory.

    Attributes:
        token: An identifier that distinguishes it from other loops started for the same run.
        place: A description of the place where it runs.
        host: The host of its process.
        pid: The id of its process.
        starts: The number of processes so far.
        version: The version from which the last process began.
        in_vain: The number of consecutive processes lost without a commit.
        error: The error that ended the last process, if known.
        ended: "finished", "stopped" or "failed" after the end of the loop.
        exit_code: The exit code of that error.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Detached("f00d", "on Ray 10.0.0.1:6379").write(Path(folder))
        ...     found = Detached.read(Path(folder))
        >>> found.token, found.goes_on
        ('f00d', True)
        >>> print(Detached.read(Path("/nowhere")))
        None
    """

    token: str
    place: str
    host: str = ""
    pid: int = 0
    starts: int = 0
    version: int | None = None
    in_vain: int = 0
    error: str = ""
    ended: str = ""
    exit_code: int = 0

    @property
    def goes_on(self) -> bool:
        """Whether the loop has not ended; its process may have been lost, with another about to replace it."""
        return not self.ended

    @property
    def is_ours(self) -> bool:
        """Whether this is the loop's process."""
        return (self.host, self.pid) == (socket.gethostname(), os.getpid())

    def in_this_process(self, version: int | None) -> Self:
        """Return the record of the loop with this process, which begins at `version`."""
        in_vain = self.in_vain + 1 if self.starts and version == self.version else 0
        return replace(
            self, host=socket.gethostname(), pid=os.getpid(), starts=self.starts + 1, version=version, in_vain=in_vain
        )

    def write(self, directory: Path) -> None:
        """Write the record."""
        with storage(directory):
            directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / RECORD, json_text(asdict(self)).encode() + b"\n")

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Read the record; None if there is none."""
        found = _read(directory / RECORD)
        return None if found is None else cls(**found)


def withdraw_detached(directory: Path) -> None:
    """Remove the record of a detached loop, unless it is this process, because another one has taken the run."""
    found = Detached.read(directory)
    if found is not None and not found.is_ours:
        with storage(directory):
            (directory / RECORD).unlink(missing_ok=True)
            (directory / PROGRESS).unlink(missing_ok=True)


def write_progress(directory: Path, told: Mapping[str, Any]) -> None:
    """Replace the data of a progress bar.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     read_progress(Path(folder))
        ...     write_progress(Path(folder), {"rows": 100})
        ...     read_progress(Path(folder))
        {}
        {'rows': 100}
    """
    write_atomically(directory / PROGRESS, json_text(told).encode() + b"\n", durable=False)


def read_progress(directory: Path) -> dict[str, Any]:
    """Read the data of a progress bar; empty if there is none."""
    return _read(directory / PROGRESS) or {}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return found
