"""Processes of this host: whether one of them may run, and its end."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "scheduling_state"]


@dataclass(frozen=True, slots=True)
class Process:
    """A process by its id, and the namespace of processes that this is an id in: the host's, or a container's.

    node: the id of the cluster's node that it is on, where somebody has told.

    >>> Process.own().may_run()
    True
    """

    pid: int
    namespace: str
    node: str = ""

    @classmethod
    def own(cls) -> Process:
        """The one that this is called in."""
        return cls(os.getpid(), _namespace())

    @property
    def is_here(self) -> bool:
        """Whether it can be looked at from here."""
        return bool(self.namespace) and self.namespace == _namespace()

    def may_run(self) -> bool:
        """Whether it is known to be there, and not stopped."""
        return self.is_here and self._state() not in "TtZX"  # stopped, traced, or dead already

    def has_ended(self) -> bool:
        """Whether it is known to be there no more.

        >>> Process.own().has_ended()
        False
        """
        return self.is_here and self._state() in "ZX"

    def _state(self) -> str:
        return scheduling_state(str(self.pid))

    def kill(self) -> None:
        """End it where it can be ended from here; a stopped one too."""
        if self.is_here:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGKILL)


def scheduling_state(task: str) -> str:
    """The kernel's letter for the state of a process or a thread, by its place in /proc; X (dead) where there is none.

    >>> scheduling_state("self"), scheduling_state("0")
    ('R', 'X')
    """
    try:
        return Path(f"/proc/{task}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _namespace() -> str:
    """What tells this host, as it is since it was started, and the container; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
