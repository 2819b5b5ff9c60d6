"""Next token: closed forms, a causal model, jobs that name it, and what is said about wrong tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.errors import BadRows, JobError
from incr_core.models import TokenCNN
from incr_core.objectives import NextToken
from incr_core.runs import Version, run
from tests.support.objective_jobs import counted, job


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
    summary = run(named, tmp_path / "run").summary
    assert summary.prequential["perplexity"] == pytest.approx(math.exp(summary.prequential["log_loss"]))
    version = Version.load(tmp_path / "run")
    assert version.evaluate(tmp_path / "text.parquet")["accuracy"] > 0.95
    # The tokens so far are enough to predict the next one, and the last one tells nothing about itself.
    words = np.stack(table["words"].to_numpy())
    pq.write_table(pa.table({"words": list(words[:, :-1])}), tmp_path / "new.parquet")
    found = version.predict(tmp_path / "new.parquet")
    assert found.equals(version.predict(tmp_path / "text.parquet"))
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
        ({"vocabulary": 11, "numeric": ["x"]}, "features: expected none besides the label, whose tokens are read"),
    ):
        with pytest.raises(JobError, match=message):
            job(tmp_path / "text.parquet", "words", "next_token", features=features).encoder  # noqa: B018
