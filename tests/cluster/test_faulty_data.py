"""What a stream cannot use, or was given twice, is told alike by replicas and by one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from incr_core.commands.run import run
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import count
from tests.support.streams import faulty

pytestmark = pytest.mark.usefixtures("ray_session")


def test_replicas_go_on_from_faulty_data_as_one_process_does(tmp_path: Path) -> None:
    document = faulty(tmp_path / "data")
    local = run(Job.from_document(document), tmp_path / "local")
    replicas = run(Job.from_document(document | {"cluster": {"replicas": 2}}), tmp_path / "replicas", on="cluster")
    keys = ("rows_learned", "rows_duplicate", "rows_quarantined", "files_quarantined", "events", "increments")
    assert {key: replicas[key] for key in keys} == {key: local[key] for key in keys}
    assert [local[key] for key in keys[:4]] == [89, 10, 1, 1]
    assert count(RunDirectory(tmp_path / "replicas").open().table("duplicates")) == 10
