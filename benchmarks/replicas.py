"""Cost of a cluster's driver for 10, 100 and 1,000 replicas, with the real loop, engine, pool and run directory.

    python -m benchmarks.replicas
    python -m benchmarks.replicas --replicas 1000 --rounds 10000 --memory     resident memory along a long run

Workers are stand-ins in this process (`StandIns`, in place of `cluster.actors.RayActors`). They receive rows by the
rule of the cluster and report as replicas do, but learn nothing. Calls and their results are packed and unpacked as Ray
does. Only the driver's side is counted: neither Ray itself, nor the stand-ins. The run directory is in memory if the
system has a place for that.

The figures are milliseconds of the driver's CPU, by part of an increment; bytes of messages to and from one replica;
and the duration of one check of all signs of life. `--groups` creates groups of gloo, as replicas do, of a number of
threads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.gloo_groups import groups
from benchmarks.stand_ins import BATCH, ROWS, Account, StandIns
from cluster._heartbeat import Beat, Pulse
from cluster._rank import Rank
from cluster._rendezvous import Rendezvous
from cluster.engine import ClusterEngine
from incr_core.job import Job
from incr_core.loop import Loop, Progress
from incr_core.registry import RunDirectory

RESULTS = Path(__file__).parent / "results" / "replicas.json"


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
            "publish": {"every": every, "keep": 2, "gate": False},
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


def run(actors: StandIns, replicas: Any, on_progress: Callable[[int], None] = lambda number: None) -> pa.Table:
    """Run with as many replicas as a job may say; returns the ledger. on_progress: called after each increment, with
    how many were learned.
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
                    on_progress(done)

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

    def on_progress(number: int) -> None:
        now = {name: account.seconds[name] for name in ("receive", "learn", "save", "loop")}
        if last:
            for name, seconds in now.items():
                found[name].append(1000 * (seconds - last[name]))
            found["all"].append(1000 * (sum(now.values()) - sum(last.values())))
        last.update(now)

    run(actors, replicas, on_progress)
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
    keys = [Rank(replica, workers, 0, 1).key for replica in range(workers)]
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

    def on_progress(number: int) -> None:
        if number in marks:
            found[number] = round(resident(), 1)
            print(f"  {number:>7,} rounds: {found[number]:8.1f} MB", flush=True)

    run(StandIns(rounds, every, packs=False), replicas, on_progress)
    return {"replicas": replicas, "publish_every": every, "megabytes": found}


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
