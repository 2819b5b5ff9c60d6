"""A deployed run of three users of one machine over TLS, of whom one has a class that the others never see.

The SuperLink, a node and the server are killed; a fourth owner never comes; a stranger is turned away.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tomli_w

from federated.engine import FederatedEngine
from incr_core.job import Job
from incr_core.runs import Version
from tests.support.certificates import write_certificates, write_node_key
from tests.support.deployment import LONG, Deployment
from tests.support.federated_runs import finish
from tests.support.federations import OWNERS, document, each_row_once, federation, ledgers
from tests.support.in_process_grid import InProcessGrid
from tests.support.made_up import made_up
from tests.support.processes import wait_until
from tests.support.separate_users import as_user, can_separate_users, give

pytestmark = [pytest.mark.flower, pytest.mark.chaos]

CLASSES = ["small", "medium", "large"]
TRUSTED = ("--certificates", "tls/ca.crt")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that all users may enter, as pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="owners-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def rows_of_all() -> pa.Table:
    """Large rows are red's alone."""
    table = made_up(900)
    large, red = (pc.equal(table[name], value) for name, value in (("size", "large"), ("colour", "red")))
    return table.filter(pc.or_(red, pc.invert(large)))


def job_of_classes(**stream: str) -> dict[str, object]:
    found = document(every="1h", **stream)
    found["features"] = {"label": "size", "numeric": ["height", "weight"], "classes": CLASSES}
    found["learner"] |= {"objective": "multiclass", "epochs": 5, "optimizer": {"name": "adam", "lr": 0.02}}
    return found


def recall(run: Path, rows: Path, label: str) -> float:
    """The share of the rows of a class that the version of a run recognises."""
    truth = pq.read_table(rows)["size"].to_numpy(zero_copy_only=False)
    said = Version.load(run).predict(rows)["class"].to_numpy(zero_copy_only=False)
    return float(np.mean(said[truth == label] == label))


@pytest.mark.skipif(not can_separate_users(), reason="only root may act as other users")
def test_three_users_learn_as_in_simulation_whoever_is_killed(place: Path) -> None:
    rows = rows_of_all()
    federation(place, table=rows, label="size")
    write_certificates(place / "tls")
    (place / "tls/ca.crt").chmod(0o644)
    found = Deployment(place, secure=True)
    (place / "job.toml").write_text(tomli_w.dumps(job_of_classes()))
    users = {owner: number for number, owner in enumerate(OWNERS)}
    for owner, number in users.items():
        file = place / owner / f"{owner}.toml"
        file.write_text(f"{file.read_text()}\n[privacy]\nmin_rows = 1\n")
        write_node_key(place / f"{owner}.key")
        shutil.copy(place / f"{owner}.key", place / owner / "node.key")
        shutil.copy(place / f"{owner}.key.pub", place / owner / "node.key.pub")
        give(place / owner, number)

    def superlink() -> None:
        """Start it; it remembers no node, so its operator registers all, and one who never comes."""
        found.superlink()
        for owner in (*OWNERS, "grey"):
            found.registers(owner)

    def client(owner: str) -> None:
        found.client(owner, *TRUSTED, "--key", f"{owner}/node.key", user=users[owner])

    settings = ("federated.certificates=tls/ca.crt", "federated.round_timeout='60s'")
    try:
        superlink()
        for owner in OWNERS:
            client(owner)
        shutil.copytree(place / "red", place / "stranger")
        (place / "stranger/red.toml").rename(place / "stranger/stranger.toml")
        write_node_key(place / "stranger.key")
        found.client("stranger", *TRUSTED, "--key", "stranger.key")
        for reader, owner in (("blue", "red"), ("red", "blue")):
            looked = subprocess.run(
                as_user(users[reader], ["ls", str(place / owner)]), capture_output=True, check=False
            )
            assert looked.returncode != 0
            assert b"Permission denied" in looked.stderr

        server = found.server(*settings)
        wait_until(lambda: found.versions() >= 1, server)
        assert found.processes["stranger"].wait(LONG) == 1
        assert "expected to be let in, got status 412" in found.log("stranger")
        found.kills("superlink")
        assert server.wait(LONG) != 0, found.log("server")

        superlink()
        server = found.server(*settings, "federated.min_clients=2")
        before = found.versions()
        wait_until(lambda: found.versions() > before, server)
        found.kills("green")
        before = found.versions()
        wait_until(lambda: found.versions() > before, server)
        found.kills_all_of("server")
        client("green")
        for _ in range(2):  # green may be counted in after the others have come to their ends
            server = found.server(*settings)
            assert server.wait(LONG) == 0, found.log("server")
    finally:
        found.close()
    each_row_once(place, place / "run")
    learned = {name: told["rows_learned"] for name, told in found.summary()["clients"].items()}
    assert learned == {owner: len(rows) for owner, rows in ledgers(place).items()}
    owned = {owner: {path.stat().st_uid for path in (place / owner).rglob("*")} for owner in OWNERS}
    assert all(len(uids) == 1 and os.getuid() not in uids for uids in owned.values())

    job = Job.from_document(job_of_classes(path=str(place / "all.parquet")), ["federated.clients=colour"]).resolved()
    whole = finish(job, place / "simulated", lambda job, folder: FederatedEngine(job, folder, InProcessGrid(3)))
    assert found.summary()["prequential"]["accuracy"] > whole.score - 0.05
    for run in ("simulated", "run"):
        assert recall(place / run, place / "all.parquet", "large") > 0.25, run
