"""Laws 1 and 6 of a federated run whose driver is killed at random moments: the same bits, each row in one version."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from incr_core.commands.cli import main
from incr_core.job import Job
from tests.support.federated_runs import Result, finish, people

pytest.importorskip("flwr.app")

from tests.support.in_process_grid import InProcessGrid, on

pytestmark = pytest.mark.flower

RANGES = "features.ranges={height=[140,210],weight=[40,120]}"

KINDS = {
    "fedadam": ["outer={name='adam', lr=0.02}", "federated.rounds=2"],
    "private server": [
        RANGES,
        "federated.privacy={epsilon=60.0, noise=1.0, clip={quantile=0.5, start=0.5, count_noise=2.0}}",
        "federated.fraction=0.7",
        "outer={name='adam', lr=0.02}",
    ],
    "private clients": [RANGES, "federated.client_privacy={epsilon=60.0, unit='client'}", "federated.checks=false"],
}
"""Drawn clients, two rounds, moments of the server, accounts of the server and of the clients."""


def killed(kind: str, table: Path) -> Job:
    drawn = [] if kind == "private server" else ["federated.clients_per_round=2"]
    return people(table, "stream.every=100", "publish.every=1", *drawn, *KINDS[kind])


def learn(job: Job, out: Path) -> Result:
    return finish(job, out, on(InProcessGrid(3)))


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.chaos)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_driver_killed_at_random_moments_comes_to_the_same_bits(
    table: Path, tmp_path: Path, kind: str, kills: int
) -> None:
    job = killed(kind, table)
    begun = time.monotonic()
    whole = learn(job, tmp_path / "whole")
    seconds = time.monotonic() - begun
    assert whole.learned == list(range(2000))

    moments, done, out = random.Random(f"{kind} {kills}"), 0, tmp_path / "killed-0"
    while done < kills:
        # A fork is past its imports, so the moment is inside the run and not inside Python's start.
        child = multiprocessing.get_context("fork").Process(target=learn, args=(job, out))
        child.start()
        child.join(timeout=moments.uniform(0.02, 0.6) * seconds)
        if child.is_alive():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            done += 1
        child.join()
        if child.exitcode == 0:  # it reached the end: the next kills interrupt another run
            assert_same(job, whole, out)
            out = tmp_path / f"killed-{done}"
    assert_same(job, whole, out)


def assert_same(job: Job, whole: Result, out: Path) -> None:
    assert replace(learn(job, out), bytes_exchanged=0) == replace(whole, bytes_exchanged=0)
    assert main(["audit", str(out)]) == 0
