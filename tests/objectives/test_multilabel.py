"""Multilabel: its closed form, jobs that name it, and what is said about wrong labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from torch.func import jacrev, vmap
from torch.nn import functional as F

from incr_core.errors import BadRows
from incr_core.objectives import Multilabel
from incr_core.runs import Version, run
from tests.support.objective_jobs import job, tagged


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


@pytest.mark.slow
def test_a_multilabel_job_learns_lists_and_columns_alike(tmp_path: Path) -> None:
    from sklearn.metrics import f1_score

    table = tagged()
    pq.write_table(table.select(["x0", "x1", "x2", "tags"]), tmp_path / "lists.parquet")
    names = ["blue", "green", "red"]  # sorted, as classes found in the data are
    pyarrow.csv.write_csv(table.select(["x0", "x1", "x2", *names]), tmp_path / "columns.csv")
    one = run(job(tmp_path / "lists.parquet", "tags", "multilabel"), tmp_path / "lists").summary
    other = run(job(tmp_path / "columns.csv", names, "multilabel"), tmp_path / "columns").summary
    assert one.prequential["micro_f1"] > 0.85
    assert one.model_sha256 == other.model_sha256
    version = Version.load(tmp_path / "lists")
    found = version.predict(tmp_path / "lists.parquet")
    assert found.column_names == ["row", *(f"probability.{name}" for name in names)]
    predicted = np.stack([found[f"probability.{name}"].to_numpy() > 0.5 for name in names], axis=1)
    truth = np.stack([table[name].to_numpy() for name in names], axis=1)
    expected = f1_score(truth, predicted, average="micro")
    assert version.evaluate(tmp_path / "lists.parquet")["micro_f1"] == pytest.approx(expected)
    # Rows without labels can be predicted.
    pq.write_table(table.select(["x0", "x1", "x2"]), tmp_path / "new.parquet")
    assert version.predict(tmp_path / "new.parquet").equals(found)


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
