"""Trackers follow runs of every engine, and runs that wait for files."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tomli_w

from incr_core.job import Job
from incr_core.runs import Run, run
from tests.support.made_up import made_up
from tests.support.processes import trainer, wait_until
from tests.support.trackers import lines

LINES = "tests.support.trackers:Lines"


def job(table: Path, *settings: str) -> Job:
    document = {
        "name": "people",
        "stream": {"path": str(table), "every": 500},
        "features": {"label": "tall", "numeric": ["height", "weight"], "categorical": ["colour"], "classes": [0, 1]},
        "model": {"hidden": [4]},
        "learner": {"objective": "binary"},
        "federated": {"clients": "colour"},
        "publish": {"gate": False},
        "track": {"callbacks": [LINES], "tensorboard": True},
    }
    return Job.from_document(document, settings)


def assert_followed(out: Path) -> None:
    """Each committed increment has come once, in its version, and the event files are there."""
    expected = [
        [str(row["version"]), str(row["version"]), "None", str(row["increment"])]
        for row in Run(out).table("metrics").to_pylist()
    ]
    assert lines(out, "commit") == expected
    assert len(expected) == 4
    assert lines(out, "close") == [["True"]]
    assert len([*(out / "tensorboard").iterdir()]) == 1


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_replicas_on_a_cluster(table: Path, tmp_path: Path) -> None:
    run(job(table, "cluster.replicas=2"), tmp_path / "run", on="cluster")
    assert_followed(tmp_path / "run")


@pytest.mark.ray
@pytest.mark.flower
@pytest.mark.usefixtures("ray_session")
def test_clients_of_a_federation(table: Path, tmp_path: Path) -> None:
    run(job(table), tmp_path / "run", on="federated")
    assert_followed(tmp_path / "run")


@pytest.mark.ray
@pytest.mark.flower
@pytest.mark.usefixtures("ray_session")
def test_a_server_app_of_flower(table: Path, tmp_path: Path) -> None:
    from federated import RayGrid, make_client_app, make_server_app

    with RayGrid(make_client_app(), clients=3, workers=1) as grid:
        grid.execute(make_server_app(job(table), tmp_path / "run"))
    assert_followed(tmp_path / "run")


@pytest.mark.slow
def test_a_run_that_follows_delivers_files_as_they_come(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    document = {**job(data).document(), "stream": {"path": str(data), "settle": "0s"}}
    (tmp_path / "job.toml").write_text(tomli_w.dumps(document))
    with trainer(tmp_path / "job.toml", out) as process:
        for number in range(3):
            pq.write_table(made_up(100, seed=number), tmp_path / "whole")
            (tmp_path / "whole").rename(data / f"{number}.parquet")
            wait_until(lambda number=number: len(lines(out, "commit")) == number + 1, process)  # type: ignore[misc]
            wait_until(lambda number=number: lines(out, "serve")[-1:] == [[str(number + 1)]], process)  # type: ignore[misc]
    assert lines(out, "close") == [["True"]]  # all that had come was learned
