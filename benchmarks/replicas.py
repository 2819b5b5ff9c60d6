"""What the driver of a cluster does for 10, 100 and 1,000 replicas: the real loop, engine, pool and run directory.

    python -m benchmarks.replicas
    python -m benchmarks.replicas --replicas 1000 --rounds 10000 --memory     resident memory along a long run

Workers are stand-ins in this process (`StandIns`, in place of `cluster.actors.RayActors`): they are dealt rows by the
rule of the cluster, and tell what replicas tell, but learn nothing. Calls and their results are packed and unpacked as
Ray does, and only the driver's side of it is counted: neither Ray itself, nor what a stand-in does. The run directory
lies in memory where the system has a place for that.

Told are milliseconds of the driver's CPU, by part of an increment; bytes of messages to and from one replica; and how
long one look at all signs of life takes. `--groups` makes groups of gloo, as replicas do, of so many threads.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from cluster.engine import ClusterEngine
from cluster.groups import between_replicas
from cluster.heartbeat import Beat, Pulse
from cluster.place import Place
from cluster.processes import Process
from cluster.rendezvous import Rendezvous
from cluster.worker import Handover, Received, Saved, Setup
from incr_core.batch import Batch
from incr_core.data.timeline import Blocks, Tick
from incr_core.job import Job
from incr_core.loop import Loop, Progress
from incr_core.metrics import binary_statistics
from incr_core.numerics import FlatTensors
from incr_core.registry import RunDirectory
from incr_core.rounds import Arrival, Round

RESULTS = Path(__file__).parent / "results" / "replicas.json"
BATCH = 32
"""Rows of each replica in each increment."""

ROWS = BATCH * 1024
"""Places between the first rows of two increments."""


class Account:
    """Seconds of the driver's CPU by part, and bytes of messages; what stand-ins do is not the driver's."""

    def __init__(self) -> None:
        self.seconds = defaultdict[str, float](float)
        self.bytes = defaultdict[str, int](int)
        self._part, self._since = "", time.thread_time()

    def switch(self, part: str) -> str:
        """From now on seconds are of this part; returns the one before."""
        now = time.thread_time()
        self.seconds[self._part] += now - self._since
        before, self._part, self._since = self._part, part, now
        return before

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Inside, seconds are of this part."""
        before = self.switch(part)
        try:
            yield
        finally:
            self.switch(before)


@cache
def dealt(replica: int, replicas: int) -> Tensor:
    """The places in an increment of the rows that a replica is dealt."""
    places = torch.arange(BATCH * replicas)
    return Blocks(replica, replicas, BATCH).deal(Batch(places, places), 0).targets


class StandIn:
    """A replica that is dealt rows, and tells of them as replicas do."""

    place: Place

    def __init__(self, increments: int, every: int) -> None:
        self._increments, self._every = increments, every
        self.number = -1  # of the increment at hand

    def warm(self) -> Process:
        """One that nobody can look at, or end."""
        return Process(0, "")

    def build(self, place: Place, key: str, generation: int, run: Setup) -> Process:
        """Take a place."""
        self.place = place
        return self.warm()

    def join(self, generation: int, replicas: int) -> None:
        """There are so many from now on."""
        self.place = replace(self.place, replicas=replicas)

    def start(self, version: int | None, paths: Sequence[Any], weights: Any, *how: bool) -> None:
        """Go on from a commit."""
        self.number = (version or 0) * self._every - 1

    def receive(self) -> Received | None:
        """As many rows as an increment has for each."""
        if self.number + 1 == self._increments:
            return None
        self.number += 1
        replica, replicas = self.place.replica, self.place.replicas
        rows = dealt(replica, replicas) + self.number * ROWS
        arrival = Arrival(
            Tick(self.number, f"rows {self.number}"),
            rows,
            arriving=BATCH,
            predicted=BATCH,
            scored=BATCH,
            statistics=scores(),
            observed=OBSERVED,
            seconds=0.01,
        )
        first = self.number == 0 and replica == 0
        return Received(arrival, 1, int(not first), ["rows.parquet"] if first else [])

    def learn(self, observed: bytes, *, hands_over: bool) -> tuple[Round, Handover | None]:
        """What a round costs, and of the first replica the weights."""
        done = Round({"loss": 20.0}, BATCH, 8192, 0.01, 0.001)
        return done, self.hand_over() if hands_over else None

    def hand_over(self, *, gathers: bool = True) -> Handover | None:
        """The weights."""
        return Handover(FlatTensors.of(WEIGHTS), {}, None) if self.place.replica == 0 else None

    def save(self, version: int) -> Saved:
        """Nothing that anybody has to be told of."""
        return Saved()


OBSERVED = {f"model.{name}": torch.ones(16, dtype=torch.float64) for name in ("count", "mean", "spread")}
WEIGHTS = {"model.weight": torch.ones(64, 64), "model.bias": torch.zeros(64)}


@cache
def scores() -> dict[str, Any]:
    """Statistics of a batch."""
    draw = np.random.default_rng(0)
    answers = torch.from_numpy(draw.random(BATCH)), torch.from_numpy(draw.integers(0, 2, BATCH))
    return binary_statistics(*answers)


class StandIns:
    """Actors that are no processes, for a run of so many increments, of which every so many are committed.

    packs: whether calls and results are packed, and bytes counted.
    """

    host, node, need = "127.0.0.1", "here", "CPU"

    def __init__(self, increments: int, every: int = 1, account: Account | None = None, *, packs: bool = True) -> None:
        self._increments, self.every, self._packs = increments, every, packs
        self.account = Account() if account is None else account
        self.calls = defaultdict[str, int](int)

    def require(self) -> None:
        """It is there."""

    def make(self, name: str) -> Any:
        """A stand-in."""
        return StandIn(self._increments, self.every)

    def end(self, actor: Any) -> None:
        """It is not asked any more."""

    def call(self, actor: Any, method: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """What it returns, packed."""
        driver = self.account.switch("stand-ins")
        self.calls[method] += 1
        if self._packs and (arguments or options):
            told = [argument for argument in arguments if not isinstance(argument, _Shared)]
            self.account.switch(driver)
            packed = pickle.dumps((told, options), 5)
            self.account.switch("stand-ins")
            self.account.bytes[f"to {method}"] += len(packed)
        own = [argument.value if isinstance(argument, _Shared) else argument for argument in arguments]
        done = getattr(actor, method)(*own, **options)
        if self._packs:
            done = pickle.dumps(done, 5)
            self.account.bytes[f"from {method}"] += len(done)
        call = _Call(done)
        self.account.switch(driver)
        return call

    def results(self, calls: Sequence[Any], timeout: float | None = None) -> list[Any]:
        """Unpacked."""
        return [pickle.loads(call.done) if self._packs else call.done for call in calls]

    def ended(self, calls: Sequence[Any], least: int, timeout: float) -> Collection[Any]:
        """All."""
        return set(calls)

    def shared(self, value: Any) -> Any:
        """Packed once."""
        self.account.bytes["shared"] += len(pickle.dumps(value, 5)) if self._packs else 0
        return _Shared(value)

    def free(self) -> float:
        """As much as you like."""
        return 1e9

    def total(self) -> float:
        """As much as you like."""
        return 1e9

    def draining(self) -> set[str]:
        """None."""
        return set()

    def exports(self, run: str) -> Any:
        """Nobody is told."""
        return self

    def learned(self, rows: int, seconds_predicting: float, done: Round) -> None:
        """Of an increment."""

    def committed(self, version: int) -> None:
        """Of a version."""

    def lost(self) -> None:
        """Of a loss."""

    def close(self) -> None:
        """Nothing is to be left."""


class _Call:
    def __init__(self, done: Any) -> None:
        self.done = done


class _Shared:
    def __init__(self, value: Any) -> None:
        self.value = value


def job(folder: Path, replicas: Any, every: int) -> Job:
    """A job that commits every so many increments, whose stream is there to be looked at only."""
    path = folder / "rows.parquet"
    pq.write_table(pa.table({"x": [0.5, 1.5], "y": [0, 1]}), path)
    return Job.from_document(
        {
            "name": "many",
            "stream": {"path": str(path), "every": ROWS},
            "features": {"label": "y", "numeric": ["x"], "classes": [0, 1]},
            "learner": {"objective": "binary", "batch_size": BATCH},
            "cluster": {"replicas": replicas},
            "publish": {"every": every, "keep": 2},
        }
    ).resolved()


class Parts:
    """An engine whose calls are told apart in an account: `receive`, `learn`, `save`; all else is the loop's."""

    def __init__(self, engine: ClusterEngine, account: Account) -> None:
        self._engine, self._account = engine, account

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._engine, name)
        if name not in ("receive", "learn", "save", "start"):
            return found

        def counted(*given: Any, **how: Any) -> Any:
            with self._account.of(name):
                return found(*given, **how)

        return counted


def run(actors: StandIns, replicas: Any, observe: Callable[[int], None] = lambda number: None) -> pa.Table:
    """Run with as many replicas as a job may say; returns the ledger. observe: called after each increment, with how
    many were learned.
    """
    account = actors.account
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        made = job(Path(name), replicas, actors.every)
        with RunDirectory.create(Path(name, "run"), made.toml(), made.fingerprint(), keep=2) as directory:
            engine = ClusterEngine(made, directory.path, lambda job: actors)
            done = 0

            def after(progress: Progress) -> None:
                nonlocal done
                done += 1
                with account.of(""):
                    observe(done)

            try:
                account.switch("loop")
                parts: Any = Parts(engine, account)
                Loop(made, parts, directory, after).run()
                account.switch("")
            finally:
                engine.close()
            return directory.table("ledger")


def milliseconds(replicas: int, rounds: int, every: int) -> dict[str, Any]:
    """The driver's milliseconds an increment, by part, medians over increments; and bytes of a replica's messages."""
    actors = StandIns(rounds, every)
    account, found = actors.account, defaultdict[str, list[float]](list)
    last: dict[str, float] = {}

    def observe(number: int) -> None:
        now = {name: account.seconds[name] for name in ("receive", "learn", "save", "loop")}
        if last:
            for name, seconds in now.items():
                found[name].append(1000 * (seconds - last[name]))
            found["all"].append(1000 * (sum(now.values()) - sum(last.values())))
        last.update(now)

    run(actors, replicas, observe)
    told = {name: round(statistics.median(times), 2) for name, times in found.items()}
    sizes = {
        name: round(size / actors.calls[name.split()[1]])
        for name, size in actors.account.bytes.items()
        if name.split()[-1] in ("receive", "learn", "save")
    }
    return {"replicas": replicas, "publish_every": every, "milliseconds": told, "bytes": sizes, "look": look(replicas)}


def look(workers: int) -> float:
    """Milliseconds of one look at the signs of life of so many workers."""
    _, store = Rendezvous.open("127.0.0.1", timedelta(seconds=10))
    keys = [Place(replica, workers, 0, 1).key for replica in range(workers)]
    pulse = Pulse(store, keys, 30.0, 120.0)
    for number in range(3):
        for key in keys:
            store.set(key, str(Beat(number, 0.5 + number, "working")))
        begun = time.perf_counter()
        assert pulse.lost() == []
    return round(1000 * (time.perf_counter() - begun), 2)


def resident() -> float:
    """Megabytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def memory(replicas: int, rounds: int, every: int) -> dict[str, Any]:
    """Resident memory along a run."""
    found: dict[int, float] = {}
    marks = {max(1, rounds * tenth // 10) for tenth in range(11)}

    def observe(number: int) -> None:
        if number in marks:
            found[number] = round(resident(), 1)
            print(f"  {number:>7,} rounds: {found[number]:8.1f} MB", flush=True)

    run(StandIns(rounds, every, packs=False), replicas, observe)
    return {"replicas": replicas, "publish_every": every, "megabytes": found}


def groups(workers: int) -> dict[str, float]:
    """What it takes so many workers to make a group of gloo, and to tell one another their counts, as threads."""
    meeting, _store = Rendezvous.open("127.0.0.1", timedelta(minutes=5))
    seconds: list[tuple[float, float]] = []
    barrier = threading.Barrier(workers)

    def worker(rank: int) -> None:
        place, store = Place(rank, workers, 0, 1), meeting.join()
        barrier.wait()
        begun = time.perf_counter()
        group = between_replicas(place, store, 1, "cpu", timedelta(minutes=5))
        made = time.perf_counter()
        counts = torch.zeros(workers, dtype=torch.int64)
        for _ in range(3):
            group.alltoall_base(torch.empty_like(counts), counts, [], []).wait()
        seconds.append((made - begun, (time.perf_counter() - made) / 3))
        barrier.wait()

    threads = [threading.Thread(target=worker, args=(rank,)) for rank in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "workers": workers,
        "seconds_to_form": round(max(made for made, _ in seconds), 3),
        "seconds_to_count": round(max(counted for _, counted in seconds), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", nargs="*", type=int, default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--every", nargs="+", type=int, default=[1, 10], help="increments between commits")
    parser.add_argument("--memory", action="store_true", help="resident memory instead of seconds")
    parser.add_argument("--groups", nargs="*", type=int, default=[], help="workers of groups of gloo to make")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    document = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for workers in arguments.groups:
        document.setdefault("groups", []).append(groups(workers))
        print(document["groups"][-1], flush=True)
    for replicas in arguments.replicas:
        if arguments.memory:
            document["memory"] = memory(replicas, arguments.rounds, arguments.every[0])
            continue
        for every in arguments.every:
            found = milliseconds(replicas, arguments.rounds, every)
            document.setdefault("driver", {})[f"{replicas} replicas, a commit every {every}"] = found
            print(json.dumps(found), flush=True)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
