"""Fifty workers of one run end at random moments: no row is lost, none is learned twice, and the bits stay."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.engine import ClusterEngine
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.registry import RunDirectory
from incr_core.storage import model_sha256
from tests.support.cluster_runs import rows_learned, run
from tests.support.made_up import made_up

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.usefixtures("ray_session")]

KILLS, ROWS, SEED = 50, 6000, 0


class Killer(threading.Thread):
    """End a worker of an engine now and then: most die, some only stop."""

    def __init__(self, engine: ClusterEngine, kills: int) -> None:
        super().__init__(daemon=True)
        self.engine, self.kills = engine, kills
        self.over = threading.Event()
        self._draw = random.Random(SEED)

    def run(self) -> None:
        before = set[int]()
        while self.kills and not self.over.wait(self._draw.uniform(0.0, 0.4)):
            here = self.engine.processes
            if before & set(here) or not here:
                continue  # the last one is not replaced yet
            victim = self._draw.choice(here)
            how = signal.SIGKILL if self._draw.random() < 0.8 else signal.SIGSTOP
            with suppress(ProcessLookupError):
                os.kill(victim, how)
                before, self.kills = {victim}, self.kills - 1


def test_fifty_losses_at_random_moments_change_no_bit(small_job: Callable[..., Job], tmp_path: Path) -> None:
    print(f"seed {SEED}")
    pq.write_table(made_up(ROWS), tmp_path / "people.parquet")
    job = small_job(
        f"stream.path={tmp_path / 'people.parquet'}",
        "stream.every=6",
        "cluster.timeout=3",
        "cluster.spares=1",
        "cluster.memory_scope=all",
        f"cluster.max_failures={KILLS}",
        strategy=[{"name": "replay", "capacity": 60}, {"name": "ewc", "strength": 10.0}],
    )
    undisturbed = run(job, tmp_path / "undisturbed")
    with RunDirectory.create(tmp_path / "run", job.toml(), f"cluster:{job.fingerprint()}") as directory:
        engine = ClusterEngine(job, tmp_path / "run")
        killer = Killer(engine, KILLS)
        killer.start()
        try:
            Loop(job, engine, directory).run()
            sha256 = model_sha256(engine.weights())
        finally:
            killer.over.set()
            killer.join()
            engine.close()
    assert killer.kills == 0, f"the run ended {killer.kills} kills too early"
    assert rows_learned(tmp_path / "run") == list(range(ROWS))
    assert sha256 == undisturbed
