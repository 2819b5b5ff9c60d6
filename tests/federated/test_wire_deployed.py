"""Compressed updates over processes: a real SuperLink with a killed client, and Flower's own simulation."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from federated.engine import FederatedEngine
from tests.support.deployment import Deployment
from tests.support.federated_runs import finish, people
from tests.support.federations import OWNERS, federation, simulated
from tests.support.in_process_grid import InProcessGrid, on

pytestmark = pytest.mark.flower

SPARSE = ["federated.wire=int8", "federated.top_k=0.05", "federated.checks=false"]


@pytest.mark.chaos
def test_a_killed_owner_goes_on_with_what_it_had_left_to_send(tmp_path: Path) -> None:
    """The same increments at all owners, whatever is killed: the model of the simulation, bit for bit."""
    federation(tmp_path)
    deployment = Deployment(tmp_path)
    try:
        deployment.superlink()
        for owner in OWNERS:
            deployment.client(owner)
        server = deployment.server(*SPARSE, "federated.rounds=2")
        while deployment.versions() < 2 and server.poll() is None:
            time.sleep(0.1)
        deployment.kills_all_of("server")  # in the middle of an increment, which is learned again from the commit
        for owner in OWNERS:
            deployment.kills(owner)
            deployment.client(owner)
        assert deployment.server(*SPARSE, "federated.rounds=2").wait(300) == 0, deployment.log("server")
        found = deployment.summary()["model_sha256"]
    finally:
        deployment.close()
    job = simulated(tmp_path, *SPARSE, "federated.rounds=2").resolved()
    assert found == finish(job, tmp_path / "simulated", on(InProcessGrid(3))).sha256


@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.filterwarnings("ignore:subprocess [0-9]+ is still running:ResourceWarning")  # Ray waits for none
@pytest.mark.last  # when its simulation ends, Flower stops whatever Ray this process is connected to
def test_flowers_simulation_comes_to_the_same_bits(table: Path, tmp_path: Path) -> None:
    job = people(table, *SPARSE, "federated.rounds=2", "stream.every=600")
    ours = finish(job, tmp_path / "ours", on(InProcessGrid(3)))
    theirs = finish(job.with_settings(["federated.backend=flower"]), tmp_path / "theirs", FederatedEngine)
    assert theirs == ours


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_any_number_of_workers_gives_the_same_bits(table: Path, tmp_path: Path) -> None:
    job = people(table, *SPARSE, "federated.workers=2", "stream.every=500")
    assert finish(job, tmp_path / "two", FederatedEngine) == finish(job, tmp_path / "none", on(InProcessGrid(3)))
