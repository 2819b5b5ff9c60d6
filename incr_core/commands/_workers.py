"""Worker processes of a server: forked, replaced when one ends, and ended together."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from incr_core.errors import ArgumentError, IncrError

__all__ = ["Ready", "Work", "run_workers"]

Ready = Callable[[int], None]
"""Called by a worker, when it can answer, with the version that it answers with."""

Work = Callable[[int, Ready], None]
"""The work of a worker, called with its place. It returns when SIGTERM has ended it."""

WAITED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process receives when its parent ends."""

SOON, SLOWEST = 0.1, 10.0
"""Seconds before a worker is replaced that ended before it could answer: first and longest. They double each time."""


@dataclass
class _Place:
    """The place of a worker: its process, the pipe on which it reports, and the time of the next start."""

    pid: int = 0
    pipe: int = -1
    delay: float = SOON
    due: float = field(default_factory=time.monotonic)


def run_workers(count: int, work: Work, *, begun: Ready, replaced: Callable[[int], None]) -> None:
    """Run `work` in `count` processes until SIGTERM or SIGINT, which ends all of them and then this process.

    The caller must have no other thread. The workers end with this process, also after a SIGKILL of it. The first
    worker starts alone, so that the others find the files that it creates.

    Args:
        count: Number of processes.
        work: The work of each.
        begun: Called with the version of the first once all can answer.
        replaced: Called with the place of a worker that has ended, before another takes it.

    Raises:
        IncrError: A worker cannot start.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WAITED)
    places = [_Place() for _ in range(count)]
    first = 0
    try:
        for some in ([0], range(1, count)):
            for place in some:
                _start(places, place, work, before)
            for place in some:
                if (version := _reported(places[place])) is not None and place == 0:
                    first = version
        if not _is_asked_to_end():
            begun(first)
        asked = _watch(places, work, before, replaced)
    finally:
        _end(places)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    signal.raise_signal(asked)


def _start(places: list[_Place], place: int, work: Work, mask: set[signal.Signals | int]) -> None:
    parent = os.getpid()
    reads, writes = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if (pid := os.fork()) == 0:
        code = 1
        try:
            os.close(reads)
            for other in places:
                if other.pipe >= 0:
                    os.close(other.pipe)
            _be_worker(parent)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            code = _working(place, work, writes)
        finally:
            os._exit(code)  # does not run the exit handlers that the parent has registered
    os.close(writes)
    places[place].pid, places[place].pipe = pid, reads


def _be_worker(parent: int) -> None:
    os.setpgid(0, 0)  # Ctrl-C in a terminal reaches a whole process group; the parent passes it on once
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # the parent ended before the line above
        os._exit(1)


def _working(place: int, work: Work, pipe: int) -> int:
    said = False

    def ready(version: int) -> None:
        nonlocal said
        said = True
        os.write(pipe, json.dumps({"version": version}).encode())
        os.close(pipe)

    try:
        work(place, ready)
    except IncrError as error:
        if not said:
            os.write(pipe, json.dumps({"error": str(error), "exit_code": error.exit_code}).encode())
        return error.exit_code
    return 0


def _reported(place: _Place) -> int | None:
    """Return the version with which a new worker answers; None if this process is asked to end in between."""
    report = b""
    while True:
        if select.select([place.pipe], [], [], 0.1)[0]:
            more = os.read(place.pipe, 65_536)
            if not more:
                break
            report += more
        elif _is_asked_to_end():
            return None
    os.close(place.pipe)
    place.pipe = -1
    if not report:
        raise IncrError("--workers: a worker ended before it could answer; its own message is above")
    document = json.loads(report)
    if "error" in document:
        raise (ArgumentError if document["exit_code"] == ArgumentError.exit_code else IncrError)(document["error"])
    return int(document["version"])


def _is_asked_to_end() -> bool:
    return bool(signal.sigpending() & {signal.SIGTERM, signal.SIGINT})


def _watch(places: list[_Place], work: Work, mask: set[signal.Signals | int], replaced: Callable[[int], None]) -> int:
    """Replace workers that end. Return the signal that asks this process to end."""
    while True:
        now = time.monotonic()
        for number, place in enumerate(places):
            if not place.pid and now >= place.due:
                _start(places, number, work, mask)
        waits = [place.due - now for place in places if not place.pid]
        reporting = [place for place in places if place.pipe >= 0]
        found = signal.sigtimedwait(WAITED, max(min([*waits, 0.1 if reporting else 3600.0]), 0.0))
        if found is not None and found.si_signo != signal.SIGCHLD:
            return found.si_signo
        for place in reporting:
            _read_report(place)
        for number, place in enumerate(places):
            if place.pid and os.waitpid(place.pid, os.WNOHANG)[0]:
                _read_report(place)
                place.pid = 0
                print(f"incr: worker {number} has ended and is replaced", file=sys.stderr, flush=True)
                replaced(number)
                place.due = time.monotonic() + (place.delay if place.delay > SOON else 0.0)
                place.delay = min(2 * place.delay, SLOWEST)


def _read_report(place: _Place) -> None:
    """Read the report of a worker that was started again, if there is one."""
    if place.pipe < 0 or not select.select([place.pipe], [], [], 0)[0]:
        return
    document = json.loads(os.read(place.pipe, 65_536) or b"{}")
    os.close(place.pipe)
    place.pipe = -1
    if "error" in document:
        print(f"incr: {document['error']}", file=sys.stderr, flush=True)
    elif document:
        place.delay = SOON


def _end(places: list[_Place]) -> None:
    """Ask all workers to end, and wait. A further signal ends them without finishing their requests."""
    left = [place.pid for place in places if place.pid]
    for pid in left:
        os.kill(pid, signal.SIGTERM)
    while left := [pid for pid in left if not os.waitpid(pid, os.WNOHANG)[0]]:
        found = signal.sigtimedwait(WAITED, 1.0)
        if found is not None and found.si_signo != signal.SIGCHLD:
            for pid in left:
                os.kill(pid, signal.SIGINT)  # the second signal, SIGINT, ends a server at once
    for place in places:
        if place.pipe >= 0:
            os.close(place.pipe)
