"""Whoever notices a loss first, and in whatever order it is told, the one at fault is named and no other."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from cluster._heartbeat import Beat, Pulse
from cluster._processes import Process
from cluster._rank import Rank
from cluster._worker_calls import Member, WorkerCalls
from incr_core.errors import EngineError, WorkerLost

pytestmark = pytest.mark.ray

CLOSED = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.7]:39597")
"""What a collective in the midst of a sharded model raises."""

WAITED = EngineError("the connection to a peer is lost: Connection closed by peer")
FAILED = RuntimeError("a device has failed")
DEAD = RayActorError()
NEVER = None
"""It does not end."""


class Scripted:
    """Actors whose calls end as told, each after so many seconds."""

    def __init__(self, *ends: tuple[Exception | None, float]) -> None:
        self._ends, self._begun = ends, time.monotonic()
        self.dismissed: list[int] = []

    def call(self, actor: int, method: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> int:
        return actor

    def ended(self, calls: Sequence[int], least: int, timeout: float) -> Collection[int]:
        until = time.monotonic() + timeout
        while len(here := [call for call in calls if self._has_ended(call)]) < least and time.monotonic() < until:
            time.sleep(0.01)
        return here

    def _has_ended(self, call: int) -> bool:
        end, after = self._ends[call]
        return end is not NEVER and time.monotonic() - self._begun > after

    def results(self, calls: Sequence[int], timeout: float | None = None) -> list[Any]:
        self.ended(calls, 1, timeout or 0.0)
        for call in calls:
            if self._has_ended(call):
                end = self._ends[call][0]
                raise end if isinstance(end, RayActorError) else RayTaskError("learn", "", end)  # type: ignore[no-untyped-call]
        raise GetTimeoutError

    def end(self, actor: int) -> None:
        self.dismissed.append(actor)


def said(*ends: tuple[Exception | None, float], gone: Collection[int] = (), beats: Sequence[Beat] = ()) -> str:
    """What is said of workers whose calls end so; gone: whose processes have ended, and Ray has not noticed yet."""
    over = subprocess.Popen(["true"])
    over.wait()
    here = Process.own()
    store, actors = HashStore(), Scripted(*ends)
    calls = WorkerCalls(actors, store, timeout=0.3)  # type: ignore[arg-type]  # as much of it as is asked
    for number in range(len(ends)):
        process = Process(over.pid, here.namespace) if number in gone else None
        calls.ranks.append(Rank(number, len(ends), 0, 1))
        calls._members[number] = Member(number, f"alive/{number}", process)
    keys = [f"alive/{number}" for number in range(len(ends))]
    calls._pulse = Pulse(store, keys, 0.3, 30.0, starved=lambda place: True)  # the thread that beats may be late
    calls.generation = 2
    with beating(store, beats), pytest.raises(WorkerLost) as lost:
        calls.call("learn")
    return str(lost.value)


@contextmanager
def beating(store: HashStore, beats: Sequence[Beat]) -> Iterator[None]:
    """Inside, these are the signs of life that come, again and again."""
    over = threading.Event()

    def beat() -> None:
        numbers = count(1)
        while not over.wait(0.02):
            for place, one in enumerate(beats):
                store.set(f"alive/{place}", str(replace(one, number=next(numbers))))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_process_that_is_gone_is_named_before_its_end_is_told_of() -> None:
    assert said((WAITED, 0.0), (NEVER, 0.0), gone=[1]) == "replica 1 died"


def test_an_end_that_is_told_a_moment_later_is_named_and_not_what_it_has_made_others_raise() -> None:
    assert said((ValueError("no such row"), 0.0), (DEAD, 0.3)) == "replica 1 died"


def test_what_a_collective_raises_is_a_consequence_of_what_another_raises() -> None:
    assert said((CLOSED, 0.0), (WAITED, 0.0), (FAILED, 0.2)) == "replica 2 raised RuntimeError: a device has failed"


def test_who_hangs_is_named_with_the_place_and_not_those_who_wait() -> None:
    waits, hangs = Beat(1, 0.5, "waiting"), Beat(1, 0.5, "working", "read (disk.py, line 7)")
    told = "replica 1 was stuck for 0.3 s: it hangs in read (disk.py, line 7), which does not return"
    assert said((CLOSED, 0.0), (NEVER, 0.0), (NEVER, 0.0), beats=[waits, hangs, waits]) == told


def test_where_there_are_consequences_alone_they_are_told() -> None:
    assert said((CLOSED, 0.0), (WAITED, 0.0)) == (
        "replica 0 lost the connection to its peers: [gloo/transport/tcp/pair.cc:553] Connection closed by peer "
        "[10.0.0.7]:39597; replica 1 lost the connection to its peers: the connection to a peer is lost: Connection "
        "closed by peer"
    )
