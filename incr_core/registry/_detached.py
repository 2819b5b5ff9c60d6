"""A loop that goes on by itself: where it runs, how far it has come and how it ended, in files of the run directory.

    DIR/detached.json    who holds the run and, once the loop has ended, with which exit code and error
    DIR/progress.json    what a progress bar shows; written often, and never waited for

So whoever sees the folder can follow the run, from any host.
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
    """A detached loop, as it tells of itself.

    token: tells it from others that were started for the same run. place: where it runs, in words. host, pid: of its
    process. starts: how many processes it has had. version: that the last of them began at. in_vain: how many in a row
    were lost without a commit. error: what ended the last one, where that is known. ended: "finished", "stopped" or
    "failed", once it has; exit_code: of that error.

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
        """Whether it has not ended; its process may be gone, and another one about to take its place."""
        return not self.ended

    @property
    def is_ours(self) -> bool:
        """Whether this is the loop's process."""
        return (self.host, self.pid) == (socket.gethostname(), os.getpid())

    def in_this_process(self, version: int | None) -> Self:
        """The same, as the process that begins here tells of it; version: that it begins at."""
        in_vain = self.in_vain + 1 if self.starts and version == self.version else 0
        return replace(
            self, host=socket.gethostname(), pid=os.getpid(), starts=self.starts + 1, version=version, in_vain=in_vain
        )

    def write(self, directory: Path) -> None:
        """Tell it."""
        with storage(directory):
            directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / RECORD, json_text(asdict(self)).encode() + b"\n")

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """What is told; None where nothing is."""
        found = _read(directory / RECORD)
        return None if found is None else cls(**found)


def withdraw_detached(directory: Path) -> None:
    """Take away what is told of a detached loop, unless it is this process: another one has taken the run."""
    found = Detached.read(directory)
    if found is not None and not found.is_ours:
        with storage(directory):
            (directory / RECORD).unlink(missing_ok=True)
            (directory / PROGRESS).unlink(missing_ok=True)


def write_progress(directory: Path, told: Mapping[str, Any]) -> None:
    """Replace what a progress bar shows.

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
    """What a progress bar shows; empty where nothing is told."""
    return _read(directory / PROGRESS) or {}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return found
