"""What the driver does grows with the number of replicas and no faster, and not with the increments behind it.

Counted are operations and bytes, of the real loop, engine, pool and run directory, with stand-ins for workers.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import pytest
from ray.exceptions import RayActorError
from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from benchmarks.replicas import run
from benchmarks.stand_ins import BATCH, StandIns
from cluster._heartbeat import Heartbeat
from cluster._peers import Peers
from incr_core.registry.ledger import count

pytestmark = pytest.mark.ray


def operations(replicas: Any, increments: int = 6) -> tuple[float, StandIns]:
    """Functions called by the driver for an increment and its commit, and what was called."""
    count, counts, actors = 0, list[int](), StandIns(increments)

    def called(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        run(actors, replicas, lambda number: counts.append(count))
    finally:
        sys.setprofile(None)
    return median(after - before for before, after in pairwise(counts)), actors


def test_an_increment_costs_as_much_more_as_there_are_more_replicas() -> None:
    few, _ = operations(16)
    some, one = operations(32)
    many, other = operations(64)
    assert many - some < 1.1 * 2 * (some - few)
    for actors in (one, other):  # two calls of each, a commit or not
        calls = {name: actors.calls[name] for name in ("receive", "learn", "save")}
        replicas = actors.calls["build"]
        assert calls == {"receive": 7 * replicas, "learn": 6 * replicas, "save": 0}
    for told in ("to learn", "from receive", "from learn"):
        sizes = [actors.account.bytes[told] / actors.calls[told.split()[1]] for actors in (one, other)]
        assert sizes[1] < 1.1 * sizes[0], told


def test_those_who_inherit_are_told_of_all_others_once() -> None:
    sizes = []
    for replicas in (16, 64):
        actors = StandIns(4)
        run(actors, [[0, replicas], [2, 2 * replicas]])
        sizes.append((actors.account.bytes["to start"] + actors.account.bytes["shared"]) / replicas)
    assert sizes[1] < sizes[0]


def test_the_driver_keeps_nothing_of_increments_that_are_folded() -> None:
    kept: dict[int, list[int]] = {}

    def on_progress(number: int) -> None:
        if 1 <= number % 32 <= 4:  # the first after those before were folded into a segment
            gc.collect()
            kept.setdefault(number // 32, []).append(len(gc.get_objects()))

    run(StandIns(132, packs=False), 4, on_progress)
    least = [min(counts) for counts in kept.values()]  # a commit in flight adds objects of its own
    assert abs(least[-1] - least[-3]) < 50


class Mortal(StandIns):
    """Stand-ins of which one dies when a call of a method of its is begun for the n-th time; and what was done when."""

    def __init__(self, method: str, time: int, every: int = 1) -> None:
        super().__init__(6, every)
        self.log = list[str]()
        self._method, self._left = method, time
        self._dead: Any = None
        self._of: dict[Any, Any] = {}

    def call(self, actor: Any, method: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        self.log.append(method)
        if method == self._method and actor.rank.replica == 1:
            self._left -= 1
            self._dead = actor if self._left == 0 else self._dead
        done = super().call(actor, method, arguments, options)
        self._of[done] = actor
        return done

    def results(self, calls: Sequence[Any], timeout: float | None = None) -> list[Any]:
        self.log.append("results")
        if any(self._of[call] is self._dead for call in calls):
            raise RayActorError
        return super().results(calls, timeout)


def test_workers_go_on_while_a_version_is_written() -> None:
    actors = Mortal("never", 0)
    run(actors, 2)
    log = [one for one, before in zip(actors.log, ["", *actors.log], strict=False) if one != before or one == "results"]
    assert log[log.index("learn") :][:5] == ["learn", "results", "receive", "results", "learn"]
    rarely = Mortal("never", 0, every=2)
    run(rarely, 2)
    log = [one for one, before in zip(rarely.log, ["", *rarely.log], strict=False) if one != before or one == "results"]
    assert log[log.index("save") :][:5] == ["save", "receive", "results", "results", "learn"]


@pytest.mark.parametrize(("method", "every"), [("receive", 1), ("learn", 1), ("save", 2)])
def test_whoever_is_lost_and_whatever_was_begun_each_row_is_learned_once(method: str, every: int) -> None:
    actors = Mortal(method, 3, every)
    ledger = run(actors, 4)
    assert actors.calls["build"] == 5
    starts = [pair["start"] for pairs in ledger["ranges"].to_pylist() for pair in pairs]
    assert len(set(starts)) == len(starts)
    assert count(ledger) == 6 * 4 * BATCH


class Counted(HashStore):
    """A store that counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = Counter[str]()

    def add(self, key: str, amount: int) -> int:
        self.asked["add"] += 1
        return int(super().add(key, amount))

    def set(self, key: str, value: Any) -> None:
        self.asked["set"] += 1
        super().set(key, value)

    def check(self, keys: list[str]) -> bool:
        self.asked["check"] += len(keys)
        return bool(super().check(keys))

    def wait(self, keys: list[str], *patience: Any) -> None:
        self.asked["wait"] += len(keys)
        super().wait(keys, *patience)


@pytest.mark.parametrize("workers", [4, 16])
def test_to_meet_costs_each_worker_the_same(workers: int) -> None:
    store, silent = Counted(), HashStore()
    peers = [Peers(store, Heartbeat(silent, f"alive/{one}", every=60.0), 1) for one in range(workers)]
    threads = [threading.Thread(target=one.meet, args=("to join", workers)) for one in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.asked["add"] == workers
    assert store.asked["set"] == 1
    assert store.asked["wait"] - store.asked["check"] == workers  # who waits for long looks whether there is an end
