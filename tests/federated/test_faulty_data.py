"""What a stream cannot use, or was given twice, is told alike by clients and by one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import count
from tests.support.federated_runs import finish
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.streams import faulty

pytestmark = pytest.mark.flower


def told(folder: Path) -> dict[str, object]:
    directory = RunDirectory.open(folder)
    quarantine = directory.table("quarantine").to_pylist()
    return {
        "duplicates": count(directory.table("duplicates")),
        "rows": [(row["fragment"], row["offset"]) for row in quarantine if row["row"] is not None],
        "files": [row["fragment"] for row in quarantine if row["row"] is None],
        "events": [event["kind"] for event in directory.table("events").to_pylist()],
        "learned": count(directory.table("ledger")),
    }


EXPECTED = {
    "duplicates": 10,
    "rows": [("part-2.parquet", 5)],
    "files": ["part-1.parquet"],
    "events": ["bad file"],
    "learned": 89,
}


@pytest.mark.parametrize(("clients", "by"), [(1, "blocks:1"), (2, "blocks:2"), (4, "carrier")])
def test_clients_go_on_from_faulty_data_as_one_process_does(tmp_path: Path, clients: int, by: str) -> None:
    document = faulty(tmp_path / "data")
    local = finish(Job.from_document(document), tmp_path / "local", LocalEngine)
    assert told(tmp_path / "local") == EXPECTED
    job = Job.from_document(document | {"federated": {"clients": by}})
    one = finish(job, tmp_path / "clients", on(InProcessGrid(clients)))
    assert told(tmp_path / "clients") == EXPECTED
    assert one.learned == local.learned
    if clients == 1:
        assert one.sha256 == local.sha256
    # what a file holds stays with its owners
    (file,) = (row for row in RunDirectory.open(tmp_path / "clients").table("quarantine").to_pylist() if not row["row"])
    assert "that cannot be read (kept by its owner); write it again" in file["reason"]


@pytest.mark.parametrize("forgetful", [False, True])
def test_clients_stopped_and_started_again_come_to_the_same_model(tmp_path: Path, forgetful: bool) -> None:
    job = Job.from_document(faulty(tmp_path / "data") | {"federated": {"clients": "carrier"}})
    whole = finish(job, tmp_path / "whole", on(InProcessGrid(4)))
    finish(job, tmp_path / "parts", on(InProcessGrid(4, forgetful=forgetful)), stop_after=2)
    assert finish(job, tmp_path / "parts", on(InProcessGrid(4, forgetful=forgetful))).sha256 == whole.sha256
    assert told(tmp_path / "parts") == EXPECTED
