"""What holds for multilabel, ranking and next-token alike, drift in them too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from incr_core.batch import Batch
from incr_core.commands.cli import main
from incr_core.engines import LocalEngine
from incr_core.errors import ArgumentError, JobError
from incr_core.loop import Loop
from incr_core.memories import Balanced
from incr_core.models import TokenCNN
from incr_core.objectives import Multilabel, NextToken, Ranking, distillation_loss
from incr_core.registry import RunDirectory
from incr_core.runs import run
from incr_core.strategies.mechanisms import fisher_diagonal
from tests.support.objective_jobs import counted, job, tagged


def test_fisher_and_distillation_serve_them_all() -> None:
    for objective, model, inputs in (
        (Multilabel(3), nn.Linear(4, 3), torch.randn(6, 4)),
        (Ranking(2), nn.Linear(4, 4), torch.randn(6, 4)),
        (NextToken(5), TokenCNN(5, [4], 3), torch.randint(5, (6, 7))),
    ):
        found = fisher_diagonal(model, objective, Batch(inputs, torch.zeros(6)), torch.Generator())
        assert all(bool(value.isfinite().all()) and float(value.sum()) > 0 for value in found.values())
        output = model(inputs).detach()
        assert float(distillation_loss(objective, output, output)) == pytest.approx(0.0, abs=1e-6)
        assert float(distillation_loss(objective, output, output + torch.randn_like(output))) > 0


def test_losses_of_predictions_are_those_that_are_learned() -> None:
    """Where predictions tell as much as outputs do: of all labels, of the last token, of as many candidates as rows."""
    generator = torch.Generator().manual_seed(0)
    labels, output = torch.randint(2, (6, 4), generator=generator).float(), torch.randn(6, 4, generator=generator)
    multilabel = Multilabel(4)
    prediction = multilabel.predict(output)
    torch.testing.assert_close(multilabel.prediction_losses(prediction, labels), multilabel.rows(output, labels))
    wrong = ((output > 0) != (labels > 0)).any(1)
    assert multilabel.prediction_errors(prediction, labels).bool().tolist() == wrong.tolist()
    assert multilabel.prediction_errors(labels, labels).tolist() == [0.0] * 6

    token, places, words = NextToken(5), torch.randn(6, 1, 5, generator=generator), torch.arange(6)[:, None] % 5
    prediction = token.predict(places)
    torch.testing.assert_close(token.prediction_losses(prediction, words), token.rows(places, words))
    assert (
        token.prediction_errors(prediction, words).bool().tolist() == (places[:, 0].argmax(1) != words[:, 0]).tolist()
    )

    for loss in ("softmax", "bpr"):
        ranking, vectors = Ranking(3, loss, 0.5, candidates=9), torch.randn(6, 6, generator=generator)
        relevant = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0, 1.0])
        prediction = ranking.predict(vectors)
        expected = ranking.rows(vectors, relevant).masked_fill(relevant == 0, torch.nan)
        torch.testing.assert_close(ranking.prediction_losses(prediction, relevant), expected, equal_nan=True)
        first = (prediction.argmax(1) > 0).float().masked_fill(relevant == 0, torch.nan)
        torch.testing.assert_close(ranking.prediction_errors(prediction, relevant), first, equal_nan=True)


def turned(objective: str, rows: int) -> pa.Table:
    """A stream that means something else from its middle on."""
    late, draw = np.arange(rows) >= rows // 2, np.random.default_rng(0)
    if objective == "multilabel":
        x = draw.normal(size=(rows, 2)) * [1.0, 2.0]
        tags = [["red"] * one + ["blue"] * two for one, two in ((x > 0) ^ late[:, None]).tolist()]
        return pa.table({"x": x[:, 0], "z": x[:, 1], "label": tags})
    drawn = draw.integers(0, 11, rows)
    if objective == "next_token":
        return pa.table({"label": list((drawn[:, None] + np.where(late, 4, 1)[:, None] * np.arange(6)) % 11)})
    taste = [f"t{value}" for value in (drawn + late) % 11]
    product = [f"p{value}" for value in drawn]
    bought = (np.arange(rows) % 5 > 0).astype(np.int8)  # the others tell nothing
    return pa.table({"taste": taste, "product": product, "label": bought})


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["multilabel", "next_token", "ranking"])
def test_drift_is_seen_in_their_losses_and_errors(tmp_path: Path, objective: str) -> None:
    pytest.importorskip("river")
    pq.write_table(turned(objective, 6000), tmp_path / "rows.parquet")
    features = {"ranking": {"item": ["product"]}, "next_token": {"vocabulary": 11}}.get(objective, {})
    watching = 'drift=[{watch="loss"}, {detector="ddm", watch="error"}]'
    wanted = job(tmp_path / "rows.parquet", "label", objective, features=features, learner={"epochs": 2})
    run(wanted.with_settings([watching, "publish.every=100"]), tmp_path / "run")
    events = RunDirectory.open(tmp_path / "run").table("events").to_pylist()
    assert sorted(event["what"].split(",")[0] for event in events) == ["adwin on loss", "ddm on error"]
    assert all(3000 <= event["increment"] * 250 < 5000 for event in events), events


def test_a_balanced_memory_needs_one_class_a_row() -> None:
    with pytest.raises(ArgumentError, match=r"memory: expected one target a row for 'balanced', got \(3,\)"):
        Balanced(5).insert({"targets": torch.zeros(2, 3)}, torch.Generator())


@pytest.mark.slow
def test_a_job_killed_between_commits_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """With targets of several parts in memories, pending predictions and states."""
    for name, table, label, objective, features in (
        ("tags", tagged(900).select(["x0", "x1", "tags"]), "tags", "multilabel", {}),
        ("text", counted(900), "words", "next_token", {"vocabulary": 11}),
    ):
        pq.write_table(table, tmp_path / f"{name}.parquet")
        named = job(tmp_path / f"{name}.parquet", label, objective, features=features, learner={"epochs": 1})
        whole = run(named, tmp_path / f"{name}-whole").summary
        with RunDirectory.create(tmp_path / name, named.toml(), f"local:{named.fingerprint()}") as directory:
            loop = Loop(named, LocalEngine(named, tmp_path / name), directory)
            loop.on_progress = lambda done, loop=loop: loop._stop.set()
            loop.run()
            loop.engine.close()
        assert run(named, tmp_path / name).summary.model_sha256 == whole.model_sha256


def test_a_label_list_needs_multilabel(tmp_path: Path) -> None:
    pq.write_table(tagged(10), tmp_path / "rows.parquet")
    with pytest.raises(JobError, match=r"features.label: expected one column for the objective regression, got 2"):
        job(tmp_path / "rows.parquet", ["red", "green"], "regression").encoder  # noqa: B018


def test_the_command_line_predicts_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(tagged(300).select(["x0", "tags"]), tmp_path / "rows.parquet")
    (tmp_path / "job.toml").write_text(job(tmp_path / "rows.parquet", "tags", "multilabel").toml())
    assert main(["run", str(tmp_path / "job.toml"), "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["main_metric"] == "micro_f1"
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "rows.parquet")]) == 0
    assert capsys.readouterr().out.startswith('"row","probability.blue"')
