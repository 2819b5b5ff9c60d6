"""Law 1: kill anywhere, start again, bit-identical weights. Law 6: every row in exactly one version."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import check, count
from incr_core.runs import run

KILLS = 8


@pytest.mark.slow
def test_kills_at_random_moments_change_no_bit(flights_job: Callable[..., Job], tmp_path: Path) -> None:
    job = flights_job("publish.every=1")
    whole = run(job, tmp_path / "whole").summary.document()
    seconds = float(whole["wall_seconds"])

    moments, kills, tries = random.Random(0), 0, 0
    out = tmp_path / "killed"
    while kills < KILLS:
        tries += 1
        # A fork is past its imports: the moment falls inside the run, not inside Python's start.
        child = multiprocessing.get_context("fork").Process(target=run, args=(job, out))
        child.start()
        child.join(timeout=moments.uniform(0.0, 0.6) * seconds)
        if child.is_alive():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.join()
        if child.exitcode == 0:  # it came to the end: begin another run, so that every kill finds work to interrupt
            _same(whole, run(job, out).summary.document(), out)
            out = tmp_path / f"killed-{tries}"
    _same(whole, run(job, out).summary.document(), out)


def _same(whole: dict[str, object], resumed: dict[str, object], out: Path) -> None:
    for key in ("model_sha256", "version", "increments", "rows_learned", "rows_predicted", "prequential"):
        assert resumed[key] == whole[key], key
    with RunDirectory.open(out) as directory:
        ledger = directory.table("ledger")
    check(ledger)
    assert count(ledger) == whole["rows_learned"]


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(flights_job: Callable[..., Job], tmp_path: Path) -> None:
    first = run(flights_job(), tmp_path / "run").summary
    again = run(flights_job(), tmp_path / "run").summary
    assert again.version == first.version
    assert again.model_sha256 == first.model_sha256


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model_and_another_seed_another(
    flights_job: Callable[..., Job], tmp_path: Path
) -> None:
    models = [
        run(flights_job(f"learner.seed={seed}"), tmp_path / name).summary.model_sha256
        for name, seed in (("one", 3), ("two", 3), ("three", 4))
    ]
    assert models[0] == models[1] != models[2]
