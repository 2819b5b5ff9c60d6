"""On a cluster a version holds the extra state of the first replica, as in one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from incr_core.job import Job
from incr_core.runs import Version
from incr_core.runs import run as run_locally
from tests.support.cluster_runs import run
from tests.support.scaled import MODULE

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_one_replica_keeps_what_one_process_keeps(small_job: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "scaled.py").write_text(MODULE)
    job = small_job("cluster.replicas=1", f"root={tmp_path}", "model.factory=scaled:Scaled", "features.categorical=[]")
    run(job, tmp_path / "there", increments=2)
    assert run(job, tmp_path / "there") == run_locally(job, tmp_path / "here").summary.model_sha256
    there, here = (Version.load(tmp_path / place).learner.extra.state_dict() for place in ("there", "here"))
    assert there == here
    assert here["model"]["calls"] == 33  # 470 rows in increments of 100 and steps of 16: 4 * 7 + 5
