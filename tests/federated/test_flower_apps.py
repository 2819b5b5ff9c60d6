"""Flower apps run unchanged on `RayGrid`, and the apps of `incr` run wherever Flower runs apps."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

import federated
from federated import RayGrid, make_client_app, make_server_app
from incr_core.errors import ArgumentError, WorkerLost
from incr_core.runs import run
from tests.support.federated_runs import people
from tests.support.federations import federation
from tests.support.quickstart_app import FINAL_MODEL, client, server
from tests.support.repository import ROOT

pytestmark = [pytest.mark.flower, pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

CLIENTS = 6


def final_model(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / FINAL_MODEL) as found:
        return dict(found)


def test_sums_of_replies_depend_on_no_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = []
    for workers in (1, 2, CLIENTS):
        random.seed(7)  # Flower's strategy draws the order of clients from Python's generator
        with RayGrid(client, CLIENTS, workers, {"num-server-rounds": 2}) as grid:
            grid.execute(server)
        found.append(final_model(tmp_path))
    for other in found[1:]:
        assert all(np.array_equal(value, other[name]) for name, value in found[0].items())


def test_a_quickstart_app_gets_the_averages_of_flowers_own_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To rounding: Flower's engine sums replies in the order in which they arrive."""
    monkeypatch.chdir(tmp_path)
    with RayGrid(client, CLIENTS, workers=2) as grid:
        grid.execute(server)
    found = final_model(tmp_path)
    (tmp_path / FINAL_MODEL).unlink()
    script = [sys.executable, "-m", "tests.support.quickstart_app", str(CLIENTS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = final_model(tmp_path)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert wanted["accuracy"] > 0.8


def test_the_apps_of_incr_are_the_command_on_any_grid(table: Path, tmp_path: Path) -> None:
    """The run of three lines has the hash of the command's; a mod sees each message, the outermost first."""
    noted = tmp_path / "noted"

    def noting(mark: str) -> Any:
        def mod(message: Message, context: Context, answer: Any) -> Message:
            with open(noted, "a") as file:
                file.write(f"{mark}{message.metadata.message_type}\n")
            return answer(message, context)  # type: ignore[no-any-return]

        return mod

    job = people(table, "stream.every=600")
    wanted = run(job, tmp_path / "command", on="federated").summary.model_sha256
    for name, app in (("plain", make_client_app()), ("modded", make_client_app(mods=[noting("-"), noting("+")]))):
        with RayGrid(app, clients=3, workers=1) as grid:
            grid.execute(make_server_app(job, tmp_path / name))
        assert json.loads((tmp_path / name / "summary.json").read_text())["model_sha256"] == wanted
    lines = noted.read_text().splitlines()
    assert "-train.learn" in lines
    assert lines[::2] == [line.replace("+", "-") for line in lines[1::2]]


def test_an_app_serves_the_owner_of_its_file(tmp_path: Path) -> None:
    """Whatever the node's configuration says."""
    blue, *_ = federation(tmp_path)
    with RayGrid(make_client_app(blue), clients=1) as grid:
        (reply,) = grid.send_and_receive([Message(RecordDict(), 1, "query.hello")])
    assert reply.content.config_records["order"]["name"] == "blue"


def test_an_error_of_the_clients_is_part_of_the_error_of_the_run(table: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "no-such-owner.toml"
    with (
        RayGrid(make_client_app(wrong), clients=3, workers=1) as grid,
        pytest.raises(
            WorkerLost, match=r"no node has answered .*; the first answer is an error: .*file cannot be served"
        ),
    ):
        grid.execute(make_server_app(people(table), tmp_path / "run"))


def test_the_public_names_are_there() -> None:
    assert all(getattr(federated, name) for name in federated.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Grid'"):
        _ = federated.Grid


@pytest.mark.parametrize(("clients", "workers", "said"), [(0, None, "clients: expected"), (2, 0, "workers: expected")])
def test_a_grid_without_clients_or_workers_is_refused(clients: int, workers: int | None, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        RayGrid(client, clients, workers)
