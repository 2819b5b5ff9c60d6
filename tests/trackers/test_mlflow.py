"""`track.mlflow` against a server of MLflow: each increment once, each champion a model version that predicts."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from incr_core.job import Job
from incr_core.registry import champion_of
from incr_core.runs import Run, run
from tests.support.mlflow_server import QUIET, mlflow_server
from tests.support.ports import free_port
from tests.support.processes import begin, wait_until
from tests.support.trackers import after

pytest.importorskip("mlflow")
pytest.importorskip("sqlalchemy")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), free_port()) as address:
        yield address


def job(table: Path, uri: str, name: str, *settings: str) -> Job:
    document = {
        "name": name,
        "stream": {"path": str(table), "every": 250},
        "features": {"label": "tall", "numeric": ["height", "weight"], "classes": [0, 1]},
        "model": {"hidden": [4]},
        "learner": {"objective": "binary"},
        "track": {"mlflow": uri},
        "alerts": {"webhook": "http://127.0.0.1:9/secret", "on": ["drift"]},
    }
    return Job.from_document(document, settings)


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs_of(uri: str, name: str) -> list[Any]:
    """The runs of an experiment, oldest first."""
    found = client(uri).get_experiment_by_name(name)
    runs = [] if found is None else client(uri).search_runs([found.experiment_id], order_by=["start_time"])
    return list(runs)


def versions_of(uri: str, name: str) -> list[Any]:
    return sorted(client(uri).search_model_versions(f"name = '{name}'"), key=lambda found: int(found.version))


def assert_followed(uri: str, name: str, out: Path) -> None:
    """MLflow has one run, every number of the metrics once, and a model version for each champion."""
    (there,) = runs_of(uri, name)
    for column, key in (("metric.auc", "metric/auc"), ("loss.loss", "loss/loss"), ("rows_labelled", "rows_labelled")):
        rows = pq.read_table(out / "metrics").to_pylist()
        expected = [(row["increment"], row[column]) for row in rows if row[column] == row[column]]
        found = client(uri).get_metric_history(there.info.run_id, key)
        assert sorted((entry.step, entry.value) for entry in found) == expected
    versions = versions_of(uri, name)
    published = [version for version in Run(out).versions if not version.held]
    assert [found.tags["incr.version"] for found in versions] == [str(version.number) for version in published]
    assert [found.tags["incr.model_sha256"] for found in versions] == [version.model_sha256 for version in published]
    champion = client(uri).get_model_version_by_alias(name, "champion")
    assert champion.tags["incr.version"] == str(champion_of(out)) == there.data.tags["incr.champion"]


def test_a_run_is_in_mlflow_with_its_settings_metrics_and_champions(
    server: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(job(table, server, "whole"), tmp_path / "people")
    assert capsys.readouterr().out == ""  # the place of `incr run --json`
    assert_followed(server, "whole", tmp_path / "people")
    (there,) = runs_of(server, "whole")
    assert (there.info.run_name, there.info.status) == ("people", "FINISHED")
    assert there.data.params["learner.batch_size"] == "32"
    assert there.data.params["features.numeric"] == "['height', 'weight']"
    assert not [key for key in there.data.params if key.startswith(("alerts", "track"))]
    assert there.data.tags["incr.directory"] == str(tmp_path / "people")


def test_a_registered_champion_predicts_as_the_run_does(
    server: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow, pandas = pytest.importorskip("mlflow.pyfunc"), pytest.importorskip("pandas")
    found = run(job(table, server, "predicts"), tmp_path / "run")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    model = mlflow.load_model("models:/predicts@champion", dst_path=str(tmp_path))
    frame = pandas.read_parquet(table)
    frame.index = frame.index + 7
    predicted, expected = model.predict(frame), found.champion.predict(table)
    assert predicted.columns.tolist() == ["probability"]
    assert predicted.index.tolist() == frame.index.tolist()
    assert predicted["probability"].tolist() == expected["probability"].to_pylist()
    names = {path.name for path in tmp_path.rglob("*") if "people" not in path.parts and "run" not in path.parts}
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth"))]
    assert "secret" not in next(tmp_path.rglob("data/job.toml")).read_text()


def test_a_run_that_is_killed_has_each_increment_once(server: str, table: Path, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(job(table, server, "killed", "stream.every=40").toml())
    out, command = tmp_path / "run", ["run", str(tmp_path / "job.toml"), "--out", str(tmp_path / "run"), "--quiet"]
    for reached in (1, 12, 30):
        process = begin(command)
        wait_until(lambda least=reached: (champion_of(out) or 0) >= least, process)  # type: ignore[misc]
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert begin(command).wait() == 0
    assert_followed(server, "killed", out)


def test_a_kill_between_a_delivery_and_its_note_repeats_nothing(
    server: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    whole = MlflowClient.set_tag

    def refuses(self: Any, number: str, key: str, value: Any) -> None:
        if key == "incr.version" and value == "3":
            raise ConnectionError("killed")
        whole(self, number, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_tag", refuses)
        run(job(table, server, "noted"), tmp_path / "run")
    (there,) = runs_of(server, "noted")
    assert there.data.tags["incr.version"] == "2"
    assert len(client(server).get_metric_history(there.info.run_id, "loss/loss")) == 3
    run(job(table, server, "noted"), tmp_path / "run")
    assert_followed(server, "noted", tmp_path / "run")


@pytest.mark.chaos
def test_a_server_that_goes_away_and_returns_has_everything(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port, folder = free_port(), tmp_path / "server"
    folder.mkdir()
    with ExitStack() as running:
        uri = running.enter_context(mlflow_server(folder, port))

        def goes() -> None:
            wait_until(lambda: bool(versions_of(uri, "away")))
            running.close()

        assert run(job(table, uri, "away"), tmp_path / "run", on_progress=after(4, goes)).summary.finished
    assert "are not delivered; the same command delivers them" in caplog.text
    with mlflow_server(folder, port):
        run(job(table, uri, "away"), tmp_path / "run")
        assert_followed(uri, "away", tmp_path / "run")


def test_baselines_have_runs_and_no_models(server: str, table: Path, tmp_path: Path) -> None:
    run(job(table, server, "beside", 'baselines={slow=["learner.optimizer.lr=1e-5"]}'), tmp_path / "run")
    assert {found.info.run_name for found in runs_of(server, "beside")} == {"run", "run/slow"}
    assert [found.tags["incr.version"] for found in versions_of(server, "beside")] == [str(n) for n in range(1, 9)]


def test_a_champion_chosen_by_hand_gets_the_alias(server: str, table: Path, tmp_path: Path) -> None:
    run(job(table, server, "by hand"), tmp_path / "run")
    Run(tmp_path / "run").promote(2)
    run(job(table, server, "by hand"), tmp_path / "run")
    assert client(server).get_model_version_by_alias("by hand", "champion").tags["incr.version"] == "2"
