"""What a stream cannot use, or was given twice, is told alike by replicas and by one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import count
from incr_core.runs import run
from tests.support.streams import faulty

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_replicas_go_on_from_faulty_data_as_one_process_does(tmp_path: Path) -> None:
    document = faulty(tmp_path / "data")
    local = run(Job.from_document(document), tmp_path / "local").summary
    replicas = run(
        Job.from_document(document | {"cluster": {"replicas": 2}}), tmp_path / "replicas", on="cluster"
    ).summary
    keys = ("rows_learned", "rows_duplicate", "rows_quarantined", "files_quarantined", "events", "increments")
    assert [getattr(replicas, key) for key in keys] == [getattr(local, key) for key in keys]
    assert [getattr(local, key) for key in keys[:4]] == [89, 10, 1, 1]
    assert count(RunDirectory.open(tmp_path / "replicas").table("duplicates")) == 10
