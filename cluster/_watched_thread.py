"""Observation of the working thread by the heartbeat's thread: its place in the code, and whether it makes progress."""

from __future__ import annotations

import sys
import sysconfig
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch.distributed as dist

from cluster import _peer_transfer, _process_groups
from cluster._processes import scheduling_state

__all__ = ["Seen", "WatchedThread"]

PEERS = (str(Path(dist.__file__).parent), _process_groups.__file__, _peer_transfer.__file__)
"""Places in the code that wait for peers without a call that says so."""

LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))

READER = "incr-prefetch"
"""Name of threads that read rows for the working thread (`incr_core._util.prefetch`)."""


class Seen(NamedTuple):
    """A thread at one moment.

    Args:
        seconds: CPU seconds so far.
        at: The function, outside of libraries if possible.
        waits: Whether it waits for peers or for a processor.
    """

    seconds: float
    at: str = ""
    waits: bool = False


class WatchedThread:
    """The thread that creates this object.

    Example:
        >>> WatchedThread().look().seconds > 0.0
        True
    """

    def __init__(self) -> None:
        self._number, self._native = threading.get_ident(), threading.get_native_id()
        self._clock = time.pthread_getcpuclockid(self._number)

    def look(self, *, reads: bool = False) -> Seen:
        """Return the thread's state now.

        Args:
            reads: Whether it may wait for threads that read for it. Their state then counts.
        """
        threads = [one for one in threading.enumerate() if one.name == READER] if reads else []
        natives = [self._native, *(one.native_id for one in threads if one.native_id is not None)]
        frames = sys._current_frames()
        found = [frames[number] for number in (self._number, *(one.ident for one in threads)) if number in frames]
        seconds = time.clock_gettime(self._clock) + sum(map(_seconds, natives[1:]))
        waits = any(frame.f_code.co_filename.startswith(PEERS) for frame in found) or any(map(_may_run, natives))
        return Seen(seconds, _told(found[-1 if _is_prefetching(found[0]) else 0]) if found else "", waits)


def _seconds(native: int) -> float:
    """CPU seconds of another thread, which may have ended; 0 if the system does not report them."""
    try:
        return int(Path(f"/proc/self/task/{native}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError):
        return 0.0


def _may_run(native: int) -> bool:
    """Return whether a thread runs, or would run on a free processor; False if the system does not report it."""
    return scheduling_state(f"self/task/{native}") == "R"


def _own(frame: FrameType) -> FrameType:
    """The innermost frame outside of libraries, if there is one."""
    own: FrameType | None = frame
    while own is not None and own.f_code.co_filename.startswith((*LIBRARIES, "<")):
        own = own.f_back
    return own or frame


def _is_prefetching(frame: FrameType) -> bool:
    return _own(frame).f_code.co_name == "prefetch"


def _told(frame: FrameType) -> str:
    """Place in the user's code, as "step (my_model.py, line 7)"."""
    own = _own(frame)
    return f"{own.f_code.co_name} ({Path(own.f_code.co_filename).name}, line {own.f_lineno})"
