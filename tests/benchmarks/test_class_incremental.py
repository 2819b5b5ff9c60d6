"""Five increments of two classes each over ten clients: replay beside fine-tuning."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import class_incremental
from tests.support.federated_runs import finish
from tests.support.in_process_grid import InProcessGrid, on

pytestmark = pytest.mark.flower


@pytest.mark.slow
def test_replay_is_forty_points_above_fine_tuning(tmp_path: Path) -> None:
    class_incremental.prepare(tmp_path, seed=0)
    found = {}
    for arm in class_incremental.ARMS:
        job = class_incremental.job_of(tmp_path, arm, seed=0).resolved()
        finish(job, tmp_path / arm, on(InProcessGrid(class_incremental.CLIENTS)))
        found[arm] = class_incremental.accuracy(tmp_path / arm, tmp_path)
    assert found["replay"] > found["fine-tuning"] + 40.0, found
    assert found["fine-tuning"] < 60.0, found
