"""Clients keep what modules hold besides tensors to themselves, so no version would have it: refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("flwr.app")

from federated.engine import FederatedEngine
from incr_core.errors import JobError
from tests.support.federated_runs import finish, people
from tests.support.in_process_grid import InProcessGrid
from tests.support.scaled import MODULE

pytestmark = pytest.mark.flower


def test_a_model_with_an_extra_state_is_refused(table: Path, tmp_path: Path) -> None:
    (tmp_path / "scaled.py").write_text(MODULE)
    job = people(table, f"root={tmp_path}", "model.factory=scaled:Scaled", "features.categorical=[]")
    with pytest.raises(JobError, match=r"model: expected a model without an extra state .*, which clients keep"):
        finish(job, tmp_path / "run", lambda job, folder: FederatedEngine(job, folder, InProcessGrid(3)))
