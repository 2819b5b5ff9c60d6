"""A probe of an increment in which no prediction is scored, such as a warm start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from incr_core.engines import LocalEngine
from incr_core.objectives import Binary, Multiclass, Multilabel, NextToken, Objective, Ranking, Regression
from incr_core.rounds import Probe
from tests.support.federated_runs import finish, people

OBJECTIVES = [Binary(), Multiclass(4), Regression(), Multilabel(3), Ranking(2), NextToken(5)]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda it: type(it).__name__)
@pytest.mark.parametrize("statistic", ["loss", "error"])
def test_no_predictions_have_no_sums(objective: Objective, statistic: str) -> None:
    """Without predictions there is no tensor of the shape that an objective expects."""
    assert Probe(statistic).of_scored(objective, torch.zeros(0), torch.zeros(0)).shape == (0, 2, 1)


def test_the_gate_judges_a_multiclass_run_with_a_warm_start(table: Path, tmp_path: Path) -> None:
    labels = ["features.label=colour", "features.categorical=[]", 'features.classes=["red", "green", "blue"]']
    job = people(table, "learner.objective=multiclass", *labels, "publish.gate=true", "publish.holdout=0.2")
    assert len(finish(job.resolved(), tmp_path / "run", LocalEngine).learned) == 2000
