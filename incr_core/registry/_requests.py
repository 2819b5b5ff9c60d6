"""Requests of other processes to the writer of a run: files in DIR/requests, which the run checks.

stop.json       end with a commit, as after SIGTERM
change.json     another champion, or a version to go back to: the action, and the process that requests it
answer.json     the outcome of the last change
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from incr_core._util import json_text
from incr_core.storage import expose, storage, withdraw, write_atomically

__all__ = ["CHANGE", "STOP", "answer", "answered", "ask", "asked", "request"]

STOP, CHANGE, ANSWER = "stop", "change", "answer"


def ask(directory: Path, what: str, **told: Any) -> None:
    """Write a request, replacing an earlier one of the same kind; `told` contains its other entries.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ask(Path(folder), STOP)
        ...     before = asked(Path(folder), STOP)
        ...     answer(Path(folder), STOP)
        ...     before, asked(Path(folder), STOP)
        (True, False)
    """
    now = {"asked": datetime.now(UTC).isoformat(timespec="seconds"), "host": socket.gethostname(), "pid": os.getpid()}
    _write(_path(directory, what), now | told)


def asked(directory: Path, what: str) -> bool:
    """Return whether there is a request of this kind."""
    return _path(directory, what).exists()


def request(directory: Path, what: str) -> dict[str, Any] | None:
    """Return a request; None if there is none."""
    try:
        found: dict[str, Any] = json.loads(_path(directory, what).read_text())
    except FileNotFoundError:
        return None
    return found


def answer(directory: Path, what: str, outcome: Mapping[str, Any] | None = None) -> None:
    """Remove a request that was fulfilled or belongs to a run that has ended; write the outcome for the process that
    asked.
    """
    if outcome is not None:
        _write(_path(directory, ANSWER), outcome)
    with storage(directory):
        _path(directory, what).unlink(missing_ok=True)
    withdraw(_path(directory, what))


def answered(directory: Path, token: str) -> dict[str, Any] | None:
    """Return the outcome of the change with this token; None while there is no answer.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ask(Path(folder), CHANGE, token="f00d", action="unpin")
        ...     answer(Path(folder), CHANGE, {"token": "f00d", "done": "no version is pinned"})
        ...     answered(Path(folder), "f00d")["done"], answered(Path(folder), "beef")
        ('no version is pinned', None)
    """
    found = request(directory, ANSWER)
    return found if found is not None and found.get("token") == token else None


def _write(path: Path, document: Mapping[str, Any]) -> None:
    with storage(path):
        path.parent.mkdir(exist_ok=True)
    write_atomically(path, json_text(document).encode() + b"\n")
    expose(path)


@lru_cache(maxsize=64)  # a run looks for requests after each increment: to join paths took longer than to look
def _path(directory: Path, what: str) -> Path:
    return directory / "requests" / f"{what}.json"
