"""A federation of processes, over Flower's real SuperLink: to the model of the simulation, whoever is killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from federated.engine import FederatedEngine
from tests.support.certificates import write_certificates, write_node_key
from tests.support.deployment import LONG, Deployment
from tests.support.federated_runs import Result, finish
from tests.support.federations import OWNERS, federation, ledgers, simulated
from tests.support.in_process_grid import InProcessGrid
from tests.support.processes import wait_until

pytestmark = pytest.mark.flower


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    federation(tmp_path)
    found = Deployment(tmp_path)
    yield found
    found.close()


def in_simulation(tmp_path: Path) -> Result:
    job = simulated(tmp_path).resolved()
    return finish(job, tmp_path / "simulated", lambda job, folder: FederatedEngine(job, folder, InProcessGrid(3)))


def tell_of_single_rows(tmp_path: Path) -> None:
    """Increments of a few rows are told of, so that none are left over in the end."""
    for owner in OWNERS:
        file = tmp_path / owner / f"{owner}.toml"
        file.write_text(file.read_text() + "\n[privacy]\nmin_rows = 1\n")


def assert_each_row_once(tmp_path: Path) -> None:
    wanted = {
        owner: sorted(
            (path.name, row)
            for path in (tmp_path / owner / "rows").iterdir()
            for row in range(pq.read_metadata(path).num_rows)
        )
        for owner in OWNERS
    }
    assert {owner: sorted(rows) for owner, rows in ledgers(tmp_path).items()} == wanted


@pytest.mark.chaos
def test_three_processes_learn_the_model_of_the_simulation(deployment: Deployment, tmp_path: Path) -> None:
    deployment.superlink()
    for owner in OWNERS:
        deployment.client(owner)
    assert deployment.server().wait(LONG) == 0, deployment.log("server")
    summary = deployment.summary()
    assert summary["model_sha256"] == in_simulation(tmp_path).sha256
    assert_each_row_once(tmp_path)
    hashes = [line for owner in OWNERS for line in (tmp_path / owner).rglob("ledger.jsonl")]
    assert all(summary["clients"][path.parts[-5]]["ledger_sha256"] in path.read_text() for path in hashes)


@pytest.mark.chaos
def test_owners_are_drawn_in_every_way_and_one_only_evaluates(deployment: Deployment, tmp_path: Path) -> None:
    """Two of three learn in each round, by each kind of draw; rows of the third wait for their turn."""
    tell_of_single_rows(tmp_path)
    deployment.superlink()
    for owner in OWNERS:
        deployment.client(owner)
    drawn = ("federated.min_clients=2", "federated.clients_per_round=2")
    for select in ("uniform", "rows", "availability"):
        server = deployment.server(*drawn, f"federated.select={select}", out=select)
        assert server.wait(LONG) == 0, deployment.log("server")
        clients = deployment.summary(select)["clients"]
        assert sum(found["rows_learned"] for found in clients.values()) == 700
        told = pq.read_table(tmp_path / select / "clients").to_pylist()
        later = [row for row in told if row["increment"] > 0]  # in the warm start all learn
        took_part = Counter(row["increment"] for row in later if row["rounds"])
        assert max(took_part.values()) == 2
        assert {row["client"] for row in later if row["rounds"]} == {*OWNERS}
    held = 'federated.held_out=["red"]'
    assert deployment.server(*drawn[:1], held, out="held").wait(LONG) == 0, deployment.log("server")
    clients = deployment.summary("held")["clients"]
    assert (clients["red"]["rows_learned"], clients["blue"]["rows_learned"] > 0) == (0, True)
    scored = [
        row["rows_scored"] for row in pq.read_table(tmp_path / "held/clients").to_pylist() if row["client"] == "red"
    ]
    assert sum(scored) > 0


@pytest.mark.chaos
def test_whoever_is_killed_no_row_is_lost_or_learned_twice(deployment: Deployment, tmp_path: Path) -> None:
    """A client while it learns, then the server; both come back, and the run to its end."""
    tell_of_single_rows(tmp_path)
    deployment.superlink()
    for owner in OWNERS:
        deployment.client(owner)
    server = deployment.server("federated.min_clients=2", "federated.round_timeout='40s'", "stream.every='30m'")
    wait_until(lambda: deployment.versions() >= 3, server)
    deployment.kills("green")
    wait_until(lambda: deployment.versions() >= 5, server)
    deployment.kills_all_of("server")
    deployment.client("green")
    for _ in range(2):  # green may be counted in after the others have come to their ends
        server = deployment.server("federated.round_timeout='40s'", "stream.every='30m'")
        assert server.wait(LONG) == 0, deployment.log("server")
    assert_each_row_once(tmp_path)
    summary = deployment.summary()
    assert {name: found["rows_learned"] for name, found in summary["clients"].items()} == {
        owner: len(rows) for owner, rows in ledgers(tmp_path).items()
    }
    assert summary["prequential"]["auc"] > in_simulation(tmp_path).score - 0.05


@pytest.mark.chaos
def test_flowers_own_processes_are_killed_and_come_back(deployment: Deployment, tmp_path: Path) -> None:
    """The SuperLink, with all it knew; then a stock SuperNode, with what it has started, while its client learns."""
    tell_of_single_rows(tmp_path)
    timeout = "federated.round_timeout='3m'"
    deployment.superlink()
    for owner in OWNERS[:2]:
        deployment.client(owner)
    deployment.supernode("red")
    server = deployment.server(timeout)
    wait_until(lambda: deployment.versions() >= 1, server)
    deployment.kills("superlink")
    assert server.wait(LONG) != 0, deployment.log("server")
    deployment.kills_all_of("red")

    deployment.superlink()
    deployment.supernode("red")
    learned = len(ledgers(tmp_path)["red"])
    server = deployment.server(timeout)
    wait_until(lambda: len(ledgers(tmp_path)["red"]) > learned, server)
    deployment.kills_all_of("red")
    deployment.supernode("red")
    for _ in range(2):  # red may be counted in after the others have come to their ends
        assert server.wait(LONG) == 0, deployment.log("server")
        server = deployment.server(timeout)
    assert server.wait(LONG) == 0, deployment.log("server")
    assert_each_row_once(tmp_path)
    assert {name: found["rows_learned"] for name, found in deployment.summary()["clients"].items()} == {
        owner: len(rows) for owner, rows in ledgers(tmp_path).items()
    }


@pytest.mark.chaos
def test_over_tls_with_registered_nodes_and_a_stranger_turned_away(tmp_path: Path) -> None:
    federation(tmp_path)
    write_certificates(tmp_path / "tls")
    found = Deployment(tmp_path, secure=True)
    try:
        found.superlink()
        for owner in OWNERS[:2]:
            found.registers(owner)
            found.client(owner, "--certificates", "tls/ca.crt", "--key", f"{owner}.key")
        write_node_key(tmp_path / "red.key")
        found.client("red", "--certificates", "tls/ca.crt", "--key", "red.key")
        assert found.processes["red"].wait(LONG) == 1
        assert "expected to be let in, got status 412" in found.log("red")
        trusted = "federated.certificates=tls/ca.crt"
        assert found.server(trusted, "federated.min_clients=2").wait(LONG) == 0, found.log("server")
        assert ledgers(tmp_path).keys() == {"blue", "green"}
    finally:
        found.close()
