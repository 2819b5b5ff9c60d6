"""CPU seconds and memory that an increment takes in one process."""

from __future__ import annotations

import ctypes
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from incr_core.errors import JobError

__all__ = ["Usage"]

STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Linux reports the resident memory of a process and its peak here, and resets the peak (man 5 proc)."""

RESETS_PEAK = "5"


class Usage:
    """Usage of this process since `begin`.

    Args:
        memory: Limit on the resident memory in bytes; None: memory is not measured.

    Raises:
        JobError: If there is a limit, and the system does not report the peak of a process.

    Example:
        >>> usage = Usage(memory=None)
        >>> usage.begin()
        >>> seconds, memory = usage.spent()
        >>> seconds >= 0.0, memory
        (True, 0.0)
    """

    def __init__(self, memory: float | None) -> None:
        self._limit, self._before = memory, 0
        if memory is not None and not PEAK.exists():
            raise JobError(
                "limits.memory: expected Linux, which reports the peak of a process in /proc/self, got another system; "
                "leave it out, or set limits.rows_per_hour"
            )
        self._begun = time.process_time()

    def begin(self) -> None:
        """Start measuring. Memory that was freed but is still resident is returned to the system first."""
        self._begun = time.process_time()
        if self._limit is not None:
            _release()
            PEAK.write_text(RESETS_PEAK)
            self._before = _resident("VmRSS")

    def spent(self) -> tuple[float, float]:
        """Return the CPU seconds since `begin`, and the memory.

        The memory is the increase up to the peak, divided by the increase that the limit allows: above 1 the limit is
        exceeded. It is 0 without a limit.
        """
        seconds = time.process_time() - self._begun
        if self._limit is None:
            return seconds, 0.0
        allowed = max(self._limit - self._before, 1.0)
        return seconds, max(_resident("VmHWM") - self._before, 0) / allowed


def _resident(name: str) -> int:
    """Return a size from the status of this process, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _release() -> None:
    """Return free memory of Arrow's pool and of the C library to the system."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # other C libraries have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
