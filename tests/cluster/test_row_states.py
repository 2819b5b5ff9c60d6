"""Law 6 on replicas: every row is in exactly one state, whichever of them learned it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.engine import ClusterEngine
from incr_core.commands.audit import audit
from incr_core.job import Job
from tests.support.federated_runs import finish
from tests.support.row_states import counts, mixed, told

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_every_row_of_two_replicas_is_in_one_state(tmp_path: Path) -> None:
    job = Job.from_document(mixed(tmp_path / "data") | {"cluster": {"replicas": 2}})
    finish(job, tmp_path / "run", ClusterEngine, stop_after=2)
    found = audit(tmp_path / "run")
    assert found.violations == []
    assert told(found.document()) == counts(tmp_path / "data", 2)
    learned = [one["learned"] for one in found.states.participants.values()]
    assert len(learned) == 2
    assert min(learned) > 0
    assert sum(learned) == found.states.states["learned"]
    finish(job, tmp_path / "run", ClusterEngine)
    found = audit(tmp_path / "run")
    assert (found.violations, told(found.document())) == ([], counts(tmp_path / "data", 99))
