"""The writer of a run in a store, and its heartbeat, by which a second writer is rejected early.

The heartbeat is advisory: the exclusive creation of the next manifest decides. If a writer's host is gone, its last
heartbeat remains, and the next writer waits to see whether another follows. For a process of this host it is known at
once whether it exists.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incr_core.errors import RunDirectoryError, StoreError

if TYPE_CHECKING:
    from incr_core.storage._working_copy import WorkingCopy

__all__ = ["Writer"]

BEAT = 3.0
"""Seconds between heartbeats."""

SILENCE = 15.0
"""Seconds without a heartbeat after which a writer is considered gone."""

LOOK = 0.25
"""Seconds between checks for a new heartbeat."""

_log = logging.getLogger("incr")


class Writer:
    """The right to write the run of a working copy, the counterpart of `Lock` for a folder.

    Taking it pulls the newest snapshot; releasing it pushes changes.

    Example:
        >>> from incr_core.storage._working_copy import WorkingCopy
        >>> one, other = WorkingCopy("memory://doc/writer"), WorkingCopy("memory://doc/writer")
        >>> with one.writer.held():
        ...     one.writer.taken, other.writer.holder()
        (True, None)
        >>> one.writer.take(lasting=True); str(other.writer.holder()).partition(" on ")[0] == f"pid {os.getpid()}"
        True
        >>> one.writer.release(); other.writer.holder()
    """

    def __init__(self, copy: WorkingCopy) -> None:
        self._copy = copy
        self._lasting = False
        self._ended: threading.Event | None = None
        self._thread: threading.Thread | None = None
        self._beats = 0
        self._clear_up = False

    @property
    def taken(self) -> bool:
        """Whether this process holds the right."""
        return self._ended is not None

    def take(self, patience: float = 0.5, *, lasting: bool = False) -> None:
        """Take the right to write.

        Args:
            patience: Not used; it exists for compatibility with `Lock`. The wait is as long as needed to see that a
                writer is gone.
            lasting: Whether the right is held for the duration of a run.

        Raises:
            RunDirectoryError: Another process sends heartbeats, or this process holds the right already.
        """
        there = self._there()
        if self.taken:
            raise self._refused(there)
        if there is not None and not _is_gone(there):
            self._await_silence(there)
        self._clear_up = lasting
        self._lasting, self._ended = lasting, threading.Event()
        try:
            self._give_sign()
            self._copy.pull(reset=True)
        except BaseException:
            self._ended = None
            raise
        self._thread = threading.Thread(target=self._live, args=(self._ended,), name="incr-writer", daemon=True)
        self._thread.start()

    def _await_silence(self, there: dict[str, Any]) -> None:
        _log.warning("%s: waiting to see whether %s, which wrote here, is gone", self._copy.address, _named(there))
        until = time.monotonic() + SILENCE
        while time.monotonic() < until:
            time.sleep(LOOK)
            now = self._there()
            if now is None:
                return
            if (now["token"], now["beat"]) != (there["token"], there["beat"]):
                raise self._refused(now)

    def _refused(self, there: dict[str, Any] | None) -> RunDirectoryError:
        return RunDirectoryError(
            f"{self._copy.address}: another process ({_named(there or _own())}) is writing this run; "
            "wait for it, stop it (incr stop), or choose another --out"
        )

    def push(self) -> None:
        """Commit the changes."""
        self._copy.push(_own())
        if self._clear_up:
            self._copy.clear_up()
            self._clear_up = False

    def release(self) -> None:
        """Push changes and release the right, if it is held."""
        if self._ended is None or self._thread is None:
            return
        try:
            self.push()
        finally:
            self._ended.set()
            self._thread.join()
            self._ended = self._thread = None
            with contextlib.suppress(StoreError):
                there = self._there()
                if there is not None and there["token"] == self._copy.token:
                    self._copy.store.remove(["writer"])

    @contextlib.contextmanager
    def held(self, patience: float = 0.5) -> Iterator[None]:
        """Hold the right within the context, unless it is already held briefly."""
        if self.taken and not self._lasting:
            yield
            return
        self.take(patience)
        try:
            yield
        finally:
            self.release()

    def holder(self) -> str | None:
        """Return the process that runs the job, as "pid 123 on HOST"; None without one, or if its heartbeat is old."""
        there = self._there()
        if there is None or not there["lasting"] or _is_gone(there):
            return None
        since = datetime.now(UTC) - datetime.fromisoformat(there["at"])
        return None if since.total_seconds() > 4 * SILENCE else _named(there)  # clocks of hosts differ

    def holder_here(self) -> int | None:
        """Return the id of that process, if it is on this host."""
        there = self._there()
        if there is None or self.holder() is None or there["host"] != socket.gethostname():
            return None
        return int(there["pid"])

    # -- signs of life

    def _there(self) -> dict[str, Any] | None:
        content = self._copy.store.get("writer")
        found: dict[str, Any] | None = json.loads(content) if content else None
        return found

    def _give_sign(self) -> None:
        self._beats += 1
        sign = {
            **_own(),
            "token": self._copy.token,
            "beat": self._beats,
            "lasting": self._lasting,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._copy.store.put("writer", json.dumps(sign).encode())

    def _live(self, ended: threading.Event) -> None:
        """Send heartbeats, and download the requests of other processes."""
        while not ended.wait(BEAT):
            with contextlib.suppress(StoreError):  # the next commit will report it
                there = self._there()
                if there is None or there["token"] == self._copy.token:
                    self._give_sign()
                self._bring_requests()

    def _bring_requests(self) -> None:
        for name in self._copy.store.names("requests/"):
            if not self._copy.path(name).exists() and (content := self._copy.store.get(name)) is not None:
                self._copy.path(name).parent.mkdir(exist_ok=True)
                self._copy.path(name).write_bytes(content)


def _own() -> dict[str, Any]:
    """Identify this process uniquely."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "started": _started(os.getpid())}


def _is_gone(there: dict[str, Any]) -> bool:
    """Whether the process is known to be gone: it was on this host since the last boot, and does not exist."""
    if (there["host"], there["boot"]) != (socket.gethostname(), _boot()):
        return False
    return _started(int(there["pid"])) != str(there["started"])


def _named(there: dict[str, Any]) -> str:
    return f"pid {there['pid']} on {there['host']}"


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _started(pid: int) -> str:
    """Return the start time of a process of this host, in kernel ticks; "" if there is none or only a zombie."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    return ""
