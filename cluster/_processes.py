"""Processes of this host: whether one of them may run, and how to end it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "scheduling_state"]


@dataclass(frozen=True, slots=True)
class Process:
    """A process by its id and its process namespace, of the host or of a container.

    Args:
        node: Id of the process's node in the cluster, if known.

    Example:
        >>> Process.own().may_run()
        True
    """

    pid: int
    namespace: str
    node: str = ""

    @classmethod
    def own(cls) -> Process:
        """Return the current process."""
        return cls(os.getpid(), _namespace())

    @property
    def is_here(self) -> bool:
        """Whether the process is visible from this one."""
        return bool(self.namespace) and self.namespace == _namespace()

    def may_run(self) -> bool:
        """Whether the process is known to exist and is not stopped."""
        return self.is_here and self._state() not in "TtZX"  # stopped, traced, or already dead

    def has_ended(self) -> bool:
        """Whether the process is known to be gone.

        Example:
            >>> Process.own().has_ended()
            False
        """
        return self.is_here and self._state() in "ZX"

    def _state(self) -> str:
        return scheduling_state(str(self.pid))

    def kill(self) -> None:
        """Kill the process if it is visible from here, including a stopped one."""
        if self.is_here:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGKILL)


def scheduling_state(task: str) -> str:
    """Return the kernel's letter for the state of a process or thread, by its place in /proc; X (dead) if there is
    none.

    Example:
        >>> scheduling_state("self"), scheduling_state("0")
        ('R', 'X')
    """
    try:
        return Path(f"/proc/{task}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _namespace() -> str:
    """Identify the current boot of this host and the container; "" if the system does not report them."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
