"""Multilabel, ranking and next-token: closed forms, jobs that name them, and what is said about wrong ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import f1_score, ndcg_score
from torch import nn
from torch.func import jacrev, vmap
from torch.nn import functional as F

from incr_core import metrics
from incr_core.batch import Batch
from incr_core.cli import main
from incr_core.distillation_loss import distillation_loss
from incr_core.engine import LocalEngine
from incr_core.errors import BadRows, JobError, StrategyError
from incr_core.fisher import fisher_diagonal
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.memories import Balanced
from incr_core.objectives import Multilabel, NextToken, Ranking
from incr_core.predict import evaluate, load_version, predictions
from incr_core.registry import RunDirectory
from incr_core.runner import run
from incr_core.tokens import TokenCNN


def job(path: Path, label: str | list[str], objective: str, **sections: Any) -> Job:
    document: dict[str, Any] = {
        "stream": {"path": str(path), "every": 250},
        "features": {"label": label},
        "model": {"hidden": [32]},
        "learner": {"objective": objective, "epochs": 3, "optimizer": {"name": "adam", "lr": 0.01}},
        "strategy": [{"name": "replay", "capacity": 300}],
    }
    for name, section in sections.items():
        document[name] = document[name] | section
    return Job.from_document(document).resolved()


# -- multilabel ----------------------------------------------------------------------------------------------------


def tagged(rows: int = 1500) -> pa.Table:
    """Tags that numbers decide, as lists and as columns."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(rows, 3))
    truth = np.stack([x[:, 0] > 0, x[:, 1] > 0.5, x[:, 0] + x[:, 2] > 0], axis=1)
    names = np.array(["red", "green", "blue"])
    return pa.table(
        {
            **{f"x{index}": x[:, index] for index in range(3)},
            "tags": [names[row].tolist() for row in truth],
            **{name: truth[:, index].astype(np.int8) for index, name in enumerate(names)},
        }
    )


def test_multilabel_is_the_mean_of_its_labels_and_scores_make_the_hessian() -> None:
    objective, generator = Multilabel(4), torch.Generator().manual_seed(0)
    output = torch.randn(6, 4, generator=generator)
    targets = torch.randint(2, (6, 4), generator=generator).float()
    expected = torch.stack(
        [F.binary_cross_entropy_with_logits(output[:, k], targets[:, k], reduction="none") for k in range(4)]
    ).mean(0)
    torch.testing.assert_close(objective.rows(output, targets), expected)
    scores = objective.scores(output)

    def loss(row: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 4 * objective.rows(row[None], target[None])[0]  # the likelihood's is the sum

    torch.testing.assert_close(
        torch.einsum("kbi,kbj->bij", scores, scores), vmap(jacrev(jacrev(loss)))(output, targets)
    )


def test_a_multilabel_job_learns_lists_and_columns_alike(tmp_path: Path) -> None:
    table = tagged()
    pq.write_table(table.select(["x0", "x1", "x2", "tags"]), tmp_path / "lists.parquet")
    names = ["blue", "green", "red"]  # sorted, as classes found in the data are
    pyarrow.csv.write_csv(table.select(["x0", "x1", "x2", *names]), tmp_path / "columns.csv")
    one = run(job(tmp_path / "lists.parquet", "tags", "multilabel"), tmp_path / "lists")
    other = run(job(tmp_path / "columns.csv", names, "multilabel"), tmp_path / "columns")
    assert one["prequential"]["micro_f1"] > 0.85
    assert one["model_sha256"] == other["model_sha256"]
    version = load_version(tmp_path / "lists")
    found = predictions(version, tmp_path / "lists.parquet")
    assert found.column_names == ["row", *(f"probability.{name}" for name in names)]
    predicted = np.stack([found[f"probability.{name}"].to_numpy() > 0.5 for name in names], axis=1)
    truth = np.stack([table[name].to_numpy() for name in names], axis=1)
    expected = f1_score(truth, predicted, average="micro")
    assert evaluate(version, tmp_path / "lists.parquet")["micro_f1"] == pytest.approx(expected)
    # Rows without labels can be predicted.
    pq.write_table(table.select(["x0", "x1", "x2"]), tmp_path / "new.parquet")
    assert predictions(version, tmp_path / "new.parquet").equals(found)


@pytest.mark.parametrize(
    ("column", "label", "message"),
    [
        (pa.array([["a"], ["z"]]), "y", r"stream.features.y: expected labels out of a, b, 1 of 2 .* are others"),
        (pa.array([["a"], None]), "y", r"stream.features.y: expected a list of labels, 1 of 2 .* are missing"),
        (pa.array([1, 2]), ["y", "z"], r"stream.features.y: expected 0 or 1, 1 of 2 .* are something else"),
        (pa.array([1, None]), ["y", "z"], r"stream.features.y: expected 0 or 1, 1 of 2 .* are missing"),
    ],
)
def test_wrong_labels_are_named(tmp_path: Path, column: pa.Array, label: Any, message: str) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0], "y": column, "z": [0, 1]}), tmp_path / "rows.parquet")
    features = {"numeric": ["x"], "classes": ["a", "b"]}
    with pytest.raises(BadRows, match=message):
        run(job(tmp_path / "rows.parquet", label, "multilabel", features=features), tmp_path / "run")


# -- ranking -------------------------------------------------------------------------------------------------------


def chosen(rows: int = 2000, seed: int = 0) -> pa.Table:
    """People choose the product of their own taste; every product has a price, which tells nothing."""
    draw = np.random.default_rng(seed)
    taste = draw.integers(0, 8, rows)
    product = np.where(draw.random(rows) < 0.95, taste, draw.integers(0, 8, rows)) + 8 * draw.integers(0, 5, rows)
    return pa.table(
        {
            "taste": [f"t{value}" for value in taste],
            "age": draw.normal(40, 10, rows),
            "product": [f"p{value}" for value in product],
            "price": (product * 7 % 11).astype(float),
            "bought": np.ones(rows, dtype=np.int8),
        }
    )


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


def test_ranking_metrics_are_those_of_the_candidates_and_merge() -> None:
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
    summary = run(named, tmp_path / "run")
    version = load_version(tmp_path / "run")
    # One in eight candidates is to the same taste: 0.47 at best; 0.07 by chance.
    assert evaluate(version, tmp_path / "choices.parquet")["ndcg@20"] > 0.4
    assert summary["main_metric"] == "ndcg@10"
    frozen = run(named.with_settings(["learner.frozen=true"]), tmp_path / "frozen")
    assert summary["prequential"]["recall@20"] > 1.5 * frozen["prequential"]["recall@20"]
    # A better product for the same person has the higher score.
    rows = {"taste": ["t3"] * 8, "age": [40.0] * 8, "product": [f"p{k}" for k in range(8)]}
    rows["price"] = [float(k * 7 % 11) for k in range(8)]
    pq.write_table(pa.table(rows), tmp_path / "new.parquet")
    scores = predictions(version, tmp_path / "new.parquet")["score"].to_pylist()
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


# -- next token ----------------------------------------------------------------------------------------------------


def counted(rows: int = 1200, length: int = 9) -> pa.Table:
    """Sequences that count up by one or by two, modulo 11."""
    draw = np.random.default_rng(0)
    start, step = draw.integers(0, 11, rows), draw.integers(1, 3, rows)
    return pa.table({"words": list((start[:, None] + step[:, None] * np.arange(length)) % 11)})


def test_next_token_is_the_mean_over_places_and_scores_are_unbiased() -> None:
    objective, generator = NextToken(3), torch.Generator().manual_seed(0)
    output = torch.randn(1, 2, 3, generator=generator)
    targets = torch.tensor([[2, 0]])
    log_p = output.log_softmax(2)[0]
    assert float(objective.rows(output, targets)) == pytest.approx(-float(log_p[0, 2] + log_p[1, 0]) / 2)
    drawn = objective.scores(output.expand(50_000, -1, -1), generator)[0]
    p = log_p.exp()
    exact = torch.zeros(6, 6)
    for t, row in enumerate(p):
        exact[3 * t : 3 * t + 3, 3 * t : 3 * t + 3] = torch.diag(row) - torch.outer(row, row)
    torch.testing.assert_close(drawn.t() @ drawn / 50_000, exact, atol=0.01, rtol=0)


def test_the_built_in_model_is_causal() -> None:
    model = TokenCNN(7, hidden=[8, 8, 8]).eval()
    tokens = torch.randint(7, (1, 12))
    before = model(tokens)
    tokens[0, 8:] = (tokens[0, 8:] + 1) % 7
    after = model(tokens)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.equal(before[:, 8:], after[:, 8:])


def test_a_next_token_job_learns_to_count(tmp_path: Path) -> None:
    table = counted()
    pq.write_table(table, tmp_path / "text.parquet")
    named = job(tmp_path / "text.parquet", "words", "next_token", features={"vocabulary": 11})
    summary = run(named, tmp_path / "run")
    assert summary["prequential"]["perplexity"] == pytest.approx(math.exp(summary["prequential"]["log_loss"]))
    version = load_version(tmp_path / "run")
    assert evaluate(version, tmp_path / "text.parquet")["accuracy"] > 0.95
    # The tokens so far are enough to predict the next one, and the last one tells nothing about itself.
    words = np.stack(table["words"].to_numpy())
    pq.write_table(pa.table({"words": list(words[:, :-1])}), tmp_path / "new.parquet")
    found = predictions(version, tmp_path / "new.parquet")
    assert found.equals(predictions(version, tmp_path / "text.parquet"))
    assert (found["token"].to_numpy() == words[:, -1]).mean() > 0.95


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([[1, 2, 3], [1, 2, 99]], "expected token numbers from 0 to 10, 1 of 2 rows .* are something else"),
        ([[1, 2, 3], [1, 2]], "expected 3 numbers, 1 of 2 rows .* are of another length"),
        ([[1, 2, 3], None], "expected 3 tokens, 1 of 2 rows .* are missing"),
    ],
)
def test_wrong_tokens_are_named(tmp_path: Path, words: Any, message: str) -> None:
    pq.write_table(pa.table({"words": words}), tmp_path / "text.parquet")
    with pytest.raises(BadRows, match=f"stream.features.words: {message}"):
        run(job(tmp_path / "text.parquet", "words", "next_token", features={"vocabulary": 11}), tmp_path / "run")


def test_what_tokens_need_is_told(tmp_path: Path) -> None:
    pq.write_table(counted(5), tmp_path / "text.parquet")
    for features, message in (
        ({}, "features.vocabulary: missing; say how many tokens there are"),
        ({"vocabulary": 11, "numeric": ["x"]}, "features: expected none beside the label, whose tokens are read"),
    ):
        with pytest.raises(JobError, match=message):
            job(tmp_path / "text.parquet", "words", "next_token", features=features).encoder  # noqa: B018


# -- all -----------------------------------------------------------------------------------------------------------


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


# -- drift ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("objective", ["multilabel", "next_token", "ranking"])
def test_drift_is_seen_in_their_losses_and_errors(tmp_path: Path, objective: str) -> None:
    pytest.importorskip("river")
    pq.write_table(turned(objective, 6000), tmp_path / "rows.parquet")
    features = {"ranking": {"item": ["product"]}, "next_token": {"vocabulary": 11}}.get(objective, {})
    watching = 'drift=[{watch="loss"}, {detector="ddm", watch="error"}]'
    wanted = job(tmp_path / "rows.parquet", "label", objective, features=features, learner={"epochs": 2})
    run(wanted.with_settings([watching, "publish.every=100"]), tmp_path / "run")
    events = RunDirectory(tmp_path / "run").open().table("events").to_pylist()
    assert sorted(event["what"].split(",")[0] for event in events) == ["adwin on loss", "ddm on error"]
    assert all(3000 <= event["increment"] * 250 < 5000 for event in events), events


def test_a_balanced_memory_needs_one_class_a_row() -> None:
    with pytest.raises(StrategyError, match=r"memory: expected one target a row for 'balanced', got \(3,\)"):
        Balanced(5).insert({"targets": torch.zeros(2, 3)}, torch.Generator())


def test_a_job_killed_between_commits_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """With targets of several parts in memories, pending predictions and states."""
    for name, table, label, objective, features in (
        ("tags", tagged(900).select(["x0", "x1", "tags"]), "tags", "multilabel", {}),
        ("text", counted(900), "words", "next_token", {"vocabulary": 11}),
    ):
        pq.write_table(table, tmp_path / f"{name}.parquet")
        named = job(tmp_path / f"{name}.parquet", label, objective, features=features, learner={"epochs": 1})
        whole = run(named, tmp_path / f"{name}-whole")
        with RunDirectory(tmp_path / name).create(named.toml(), f"local:{named.fingerprint()}") as directory:
            loop = Loop(named, LocalEngine(named, tmp_path / name), directory)
            loop.observe = lambda done, loop=loop: loop._stop.set()
            loop.run()
            loop.engine.close()
        assert run(named, tmp_path / name)["model_sha256"] == whole["model_sha256"]


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
