"""Laws 1 and 3 for a job whose tables pass through a function, and one path of rows for all who predict."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from incr_core.commands.cli import main
from incr_core.engines import LocalEngine
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.runs import Run, Version
from incr_core.serving._asked import Asked, ask
from incr_core.serving._request import rows_in
from tests.support.federated_runs import finish
from tests.support.prepared import people


def job(folder: Path, *settings: str) -> Job:
    folder.mkdir(exist_ok=True)
    if not list(folder.iterdir()):
        pq.write_table(people().slice(0, 120), folder / "a.parquet", row_group_size=50)
        pq.write_table(people().slice(120), folder / "b.parquet")
    document = {
        "stream": {"path": str(folder), "predict_at": "at", "every": "1h"},
        "features": {"prepare": "tests.support.prepared:with_bmi", "label": "fat", "numeric": ["bmi", "kg"]},
        "learner": {"objective": "binary", "optimizer": {"name": "sgd", "lr": 0.05}},
        "strategy": [{"name": "replay", "capacity": 60}],
    }
    document["features"]["categorical"] = ["city"]  # type: ignore[index]
    return Job.from_document(document, settings).resolved()


def test_law_1_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = finish(job(tmp_path / "rows"), tmp_path / "whole", LocalEngine)
    finish(job(tmp_path / "rows"), tmp_path / "parts", LocalEngine, stop_after=2)
    parts = finish(job(tmp_path / "rows"), tmp_path / "parts", LocalEngine)
    assert (parts.sha256, parts.score) == (whole.sha256, whole.score)


@pytest.mark.flower
def test_law_3_one_client_equals_local_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("flwr.app")
    from federated.engine import FederatedEngine
    from tests.support.in_process_grid import InProcessGrid

    prepared = job(tmp_path / "rows", "federated.clients=blocks:1")
    local = finish(prepared, tmp_path / "local", LocalEngine)
    federated = finish(prepared, tmp_path / "federated", lambda job, out: FederatedEngine(job, out, InProcessGrid(1)))
    assert (federated.sha256, federated.score) == (local.sha256, local.score)


@pytest.mark.ray
@pytest.mark.flower
@pytest.mark.usefixtures("ray_session")
def test_law_3_clients_by_a_derived_column_equal_replicas_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("flwr.app")
    cluster = pytest.importorskip("cluster.engine")
    from federated.engine import FederatedEngine
    from tests.support.in_process_grid import InProcessGrid

    two = ["federated.clients=hash:city:2", "cluster.replicas=2", 'cluster.partition="city"']
    prepared = job(tmp_path / "rows", *two)
    replicas = finish(prepared, tmp_path / "cluster", cluster.ClusterEngine)
    clients = finish(prepared, tmp_path / "federated", lambda job, out: FederatedEngine(job, out, InProcessGrid(2)))
    assert (clients.sha256, clients.score) == (replicas.sha256, replicas.score)


def test_rows_of_a_file_a_table_and_a_request_get_the_same_answers(tmp_path: Path) -> None:
    finish(job(tmp_path / "rows"), tmp_path / "run", LocalEngine)
    version = Version.load(tmp_path / "run")
    new = people(20).drop_columns(["fat"])
    pq.write_table(new, tmp_path / "new.parquet")
    csv.write_csv(new, tmp_path / "new.csv")
    answers = version.predict(tmp_path / "new.parquet", keep=["who", "city"])
    assert answers.column_names == ["row", "who", "city", "probability"]
    assert answers["city"].to_pylist()[:3] == ["0", "1", "2"]
    assert version.predict(new)["probability"] == answers["probability"]
    assert version.predict(tmp_path / "new.csv")["probability"] == answers["probability"]
    rows = [{**row, "when": row["when"].isoformat()} for row in new.to_pylist()]
    asked = Asked(version)
    [served] = ask([asked.question(rows_in(json.dumps({"rows": rows}).encode(), 100))])
    assert [one["probability"] for one in served["predictions"]] == pytest.approx(answers["probability"].to_pylist())
    assert version.evaluate(people(20))["rows"] == 20


def test_the_types_of_the_first_rows_are_kept_by_the_run(tmp_path: Path) -> None:
    finish(job(tmp_path / "rows"), tmp_path / "run", LocalEngine)
    kept = Run(tmp_path / "run").job.features.prepare_types
    assert kept == {"when": "timestamp[us]", "kg": "double", "cm": "int64", "who": "string", "fat": "int64"}


def test_a_journal_is_refused_before_it_is_created(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(job(tmp_path / "rows"), tmp_path / "run", LocalEngine)
    assert main(["serve", str(tmp_path / "run"), "--journal", str(tmp_path / "journal")]) == 2
    assert "expected a job without features.prepare, whose raw rows a journal does not keep" in capsys.readouterr().err
    assert not (tmp_path / "journal").exists()


def test_a_type_of_one_column_leaves_the_others_in_a_request(tmp_path: Path) -> None:
    finish(job(tmp_path / "rows", 'features.prepare_types={cm="double"}'), tmp_path / "run", LocalEngine)
    kept = Run(tmp_path / "run").job.features.prepare_types
    assert kept == {"when": "timestamp[us]", "kg": "double", "cm": "double", "who": "string", "fat": "int64"}
    version, rows = Version.load(tmp_path / "run"), {"kg": 70.5, "cm": 170, "who": "p3", "when": "2024-01-01T00:00:00"}
    asked = Asked(version)
    [served] = ask([asked.question(rows_in(json.dumps({"rows": [rows]}).encode(), 100))])
    assert served["predictions"][0] is not None


def test_a_type_of_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"prepare_types: expected a column of the rows, got 'cn'; known: cm, fat, kg"):
        job(tmp_path / "rows", 'features.prepare_types={cn="double"}')


def test_columns_left_open_are_those_of_the_result(tmp_path: Path) -> None:
    found = job(tmp_path / "rows", "features.numeric=[]", "features.categorical=[]")
    assert "bmi" in found.features.numeric
    assert "city" in found.features.categorical
