"""What others ask of a run that goes on: a file each in DIR/requests, which the run looks for after every increment."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from incr_core._util import json_text
from incr_core.storage import expose, storage, withdraw, write_atomically

__all__ = ["STOP", "answer", "ask", "asked"]

STOP = "stop"
"""End with a commit, as after SIGTERM."""


def ask(directory: Path, what: str) -> None:
    """Leave a request; one that is there already stays.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ask(Path(folder), STOP)
    ...     before = asked(Path(folder), STOP)
    ...     answer(Path(folder), STOP)
    ...     before, asked(Path(folder), STOP)
    (True, False)
    """
    path = _path(directory, what)
    with storage(directory):
        path.parent.mkdir(exist_ok=True)
    told = {"asked": datetime.now(UTC).isoformat(timespec="seconds"), "host": socket.gethostname(), "pid": os.getpid()}
    write_atomically(path, json_text(told).encode() + b"\n")
    expose(path)


def asked(directory: Path, what: str) -> bool:
    """Whether somebody asks for it."""
    return _path(directory, what).exists()


def answer(directory: Path, what: str) -> None:
    """Take a request away: it was met, or is of a run that has ended."""
    with storage(directory):
        _path(directory, what).unlink(missing_ok=True)
    withdraw(_path(directory, what))


def _path(directory: Path, what: str) -> Path:
    return directory / "requests" / f"{what}.json"
