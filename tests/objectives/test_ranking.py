"""Ranking: closed forms of its losses and metrics, and jobs that name it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from incr_core import metrics
from incr_core.errors import JobError
from incr_core.objectives import Ranking
from incr_core.runs import Version, run
from tests.support.objective_jobs import chosen, job


def test_ranking_losses_in_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    query, item = torch.randn(2, 5, 3, generator=generator)
    item[3] = item[1]  # the same item: no candidate of the other
    output, targets = torch.cat([query, item], dim=1), torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0])
    softmax = Ranking(3, temperature=0.5).rows(output, targets)
    bpr = Ranking(3, loss="bpr", temperature=0.5).rows(output, targets)
    for i in range(5):
        others = [j for j in range(5) if j != i and {i, j} != {1, 3}]
        score = {j: float(query[i] @ item[j]) / 0.5 for j in [i, *others]}
        expected = -math.log(math.exp(score[i]) / sum(map(math.exp, score.values())))
        pairs = sum(math.log1p(math.exp(score[j] - score[i])) for j in others) / len(others)
        relevant = float(targets[i] > 0)
        assert float(softmax[i]) == pytest.approx(relevant * expected, rel=1e-4, abs=1e-6)
        assert float(bpr[i]) == pytest.approx(relevant * pairs, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_ranking_metrics_are_those_of_the_candidates_and_merge() -> None:
    from sklearn.metrics import ndcg_score

    objective = Ranking(4, candidates=6)
    output, targets = torch.randn(40, 8), (torch.arange(40) % 3 > 0).float()
    predicted = objective.predict(output)
    query, item = output[:, :4], output[:, 4:]
    for i in (0, 17, 39):
        expected = [float(query[i] @ item[(i + ahead) % 40]) for ahead in range(7)]
        assert predicted[i].tolist() == pytest.approx(expected, abs=1e-5)
    relevant = targets > 0
    grades = np.zeros((int(relevant.sum()), 7))
    grades[:, 0] = 1
    found = objective.metrics(objective.measure(predicted, targets))
    assert found["ndcg@5"] == pytest.approx(ndcg_score(grades, predicted[relevant].numpy(), k=5))
    split = metrics.add(
        objective.measure(predicted[:11], targets[:11]), objective.measure(predicted[11:], targets[11:])
    )
    assert objective.metrics(split) == found


def test_fewer_rows_than_candidates_leave_the_others_last() -> None:
    objective = Ranking(2, candidates=5)
    predicted = objective.predict(torch.randn(2, 4))
    assert (predicted[:, 2:] == torch.finfo(torch.float32).min).all()
    assert objective.metrics(objective.measure(predicted, torch.ones(2)))["recall@5"] == 1.0
    assert objective.predict(torch.empty(0, 4)).shape == (0, 6)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_a_ranking_job_learns_who_wants_what(tmp_path: Path, loss: str) -> None:
    pq.write_table(chosen(), tmp_path / "choices.parquet")
    named = job(
        tmp_path / "choices.parquet",
        "bought",
        "ranking",
        features={"item": ["product", "price"], "buckets": 64},
        model={"dimension": 8},
        learner={"loss": loss, "batch_size": 64, "epochs": 6},
    )
    summary = run(named, tmp_path / "run").summary
    version = Version.load(tmp_path / "run")
    # One in eight candidates is to the same taste: 0.47 at best; 0.07 by chance.
    assert version.evaluate(tmp_path / "choices.parquet")["ndcg@20"] > 0.4
    assert summary.main_metric == "ndcg@10"
    frozen = run(named.with_settings(["learner.frozen=true"]), tmp_path / "frozen").summary
    assert summary.prequential["recall@20"] > 1.5 * frozen.prequential["recall@20"]
    # A better product for the same person has the higher score.
    rows = {"taste": ["t3"] * 8, "age": [40.0] * 8, "product": [f"p{k}" for k in range(8)]}
    rows["price"] = [float(k * 7 % 11) for k in range(8)]
    pq.write_table(pa.table(rows), tmp_path / "new.parquet")
    scores = version.predict(tmp_path / "new.parquet")["score"].to_pylist()
    assert max(range(8), key=scores.__getitem__) == 3


def test_what_items_need_is_told(tmp_path: Path) -> None:
    pq.write_table(chosen(20), tmp_path / "choices.parquet")
    for features, message in (
        ({}, r"features.item: expected some of the 4 feature columns, got 0 of them"),
        ({"item": ["produce"]}, r"features.item: .* got 'produce', which is no feature"),
        ({"item": ["taste", "age", "product", "price"]}, r"features.item: .* got 4 of them"),
    ):
        with pytest.raises(JobError, match=message):
            job(tmp_path / "choices.parquet", "bought", "ranking", features=features).participant()
    with pytest.raises(JobError, match=r'features.item: expected with the objective "ranking" only, got it with'):
        job(tmp_path / "choices.parquet", "bought", "binary", features={"item": ["product"]})
