"""Who is silent, and who is stuck: told apart by the beats, whatever the moment of the last one."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from cluster import _process_groups as groups
from cluster._causes import of_peers
from cluster._heartbeat import Beat, Pulse
from cluster._peer_transfer import PeerTurns
from cluster._rank import Rank
from cluster._watched_thread import Seen, WatchedThread, _told
from incr_core._util import prefetch

Beats = dict[float, Beat]


def heard(*workers: Beats, until: float, may_run: bool = False) -> list[tuple[int, str]]:
    """What a pulse with a timeout of 10 s, asked each second, tells of workers with these beats, by their times."""
    store, now = HashStore(), [0.0]
    keys = [f"alive/{place}" for place in range(len(workers))]
    pulse = Pulse(store, keys, 10.0, 60.0, clock=lambda: now[0], starved=lambda place: may_run)
    while now[0] < until:
        for key, beats in zip(keys, workers, strict=True):
            if now[0] in beats:
                store.set(key, str(beats[now[0]]))
        if lost := pulse.lost():
            return [(one.place, one.told) for one in lost]
        now[0] += 1.0
    return []


STOPPED = {0.0: Beat(1, 1.0, "working"), 2.0: Beat(2, 1.0, "working")}
"""Its last beat came after it last used its processor, so it has rested for longer than it has been silent."""
HANGS = {float(at): Beat(at + 1, 1.0, "working") for at in range(0, 100, 2)}
SILENT, STUCK = "gave no sign of life for 10 s", "was stuck for 10 s: it hangs in something that does not return"


def test_who_is_stopped_while_working_is_silent_and_not_stuck() -> None:
    assert heard(STOPPED, until=60.0) == [(0, SILENT)]


def test_who_beats_without_using_its_processor_is_stuck() -> None:
    assert heard(HANGS, until=60.0) == [(0, STUCK)]


def test_who_waits_for_one_that_is_stopped_is_not_the_one_that_is_lost() -> None:
    assert heard(HANGS, STOPPED, until=60.0) == [(1, SILENT)]


def test_who_has_no_time_on_its_host_is_neither() -> None:
    assert heard(STOPPED, until=90.0, may_run=True) == []


def seen(work: Callable[[], object], wanted: Callable[[Seen], bool]) -> bool:
    """Whether a thread is there once that is at this work."""
    watched = list[WatchedThread]()

    def begin() -> None:
        watched.append(WatchedThread())
        work()

    thread = threading.Thread(target=begin)
    thread.start()
    found = False
    while thread.is_alive():
        found = found or any(wanted(one.look(reads=True)) for one in watched)
        time.sleep(0.01)
    return found


def test_where_a_thread_hangs_is_told_by_the_code_that_is_nobodys_library() -> None:
    over = threading.Event()

    def read() -> None:
        over.wait(0.2)

    assert seen(read, lambda one: one.at.startswith("read (test_heartbeat.py, line ") and not one.waits)


def test_where_another_reads_for_a_thread_it_is_that_one_which_hangs_or_waits_for_peers() -> None:
    def slowly() -> Iterator[int]:
        time.sleep(0.2)
        yield 1

    def from_a_peer() -> Iterator[int]:
        store = HashStore()
        turns = [PeerTurns(index, 2, "127.0.0.1", lambda: store, patience=0.2) for index in range(2)]
        turns[0].ask((0, 0, 0, 0), 1)
        for one in turns:
            one.close()
        yield 1

    assert seen(lambda: list(prefetch(slowly())), lambda one: one.at.startswith("slowly (") and not one.waits)
    assert seen(lambda: list(prefetch(from_a_peer())), lambda one: one.waits and one.at.startswith("ask ("))


def test_who_waits_in_a_group_that_a_peer_does_not_join_waits_for_peers() -> None:
    def join() -> None:
        with pytest.raises(RuntimeError) as failed:
            groups.between_replicas(Rank(0, 2, 0, 1), HashStore(), 1, "cpu", timedelta(seconds=0.5))
        assert of_peers(failed.value)

    assert seen(join, lambda one: one.waits and one.at.startswith("between_replicas ("))


def test_a_place_is_told_by_its_function_file_and_line() -> None:
    def step() -> str:
        return _told(sys._getframe())

    assert step().startswith("step (test_heartbeat.py, line ")
