"""What the thread that works is at, seen from the one that gives signs of life: where it is, and whether it gets on."""

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
"""Where the code is that waits for peers without saying so."""

LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))

READER = "incr-prefetch"
"""The name of threads that read rows for the one that works (`incr_core._util.prefetch`)."""


class Seen(NamedTuple):
    """A thread at one moment.

    seconds: of CPU, so far. at: the function where it is, outside of libraries where there is one. waits: for peers, or
    for a processor.
    """

    seconds: float
    at: str = ""
    waits: bool = False


class WatchedThread:
    """The thread that makes it.

    >>> WatchedThread().look().seconds > 0.0
    True
    """

    def __init__(self) -> None:
        self._number, self._native = threading.get_ident(), threading.get_native_id()
        self._clock = time.pthread_getcpuclockid(self._number)

    def look(self, *, reads: bool = False) -> Seen:
        """What it is at now. reads: it may wait for threads that read for it; then what these are at is what counts."""
        threads = [one for one in threading.enumerate() if one.name == READER] if reads else []
        natives = [self._native, *(one.native_id for one in threads if one.native_id is not None)]
        frames = sys._current_frames()
        found = [frames[number] for number in (self._number, *(one.ident for one in threads)) if number in frames]
        seconds = time.clock_gettime(self._clock) + sum(map(_seconds, natives[1:]))
        waits = any(frame.f_code.co_filename.startswith(PEERS) for frame in found) or any(map(_may_run, natives))
        return Seen(seconds, _told(found[-1 if _is_prefetching(found[0]) else 0]) if found else "", waits)


def _seconds(native: int) -> float:
    """The CPU seconds of another thread, which may have ended; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/self/task/{native}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError):
        return 0.0


def _may_run(native: int) -> bool:
    """Whether a thread runs, or could if a processor were free; False where the system does not say."""
    return scheduling_state(f"self/task/{native}") == "R"


def _own(frame: FrameType) -> FrameType:
    """The innermost frame outside of libraries, where there is one."""
    own: FrameType | None = frame
    while own is not None and own.f_code.co_filename.startswith((*LIBRARIES, "<")):
        own = own.f_back
    return own or frame


def _is_prefetching(frame: FrameType) -> bool:
    return _own(frame).f_code.co_name == "prefetch"


def _told(frame: FrameType) -> str:
    """The place in one's own code, as "step (my_model.py, line 7)"."""
    own = _own(frame)
    return f"{own.f_code.co_name} ({Path(own.f_code.co_filename).name}, line {own.f_lineno})"
