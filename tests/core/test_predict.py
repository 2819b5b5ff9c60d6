"""Predict, evaluate, versions and rollback: what one does with a run directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import mean_absolute_error, roc_auc_score

from incr_core.cli import main
from incr_core.errors import StreamError
from incr_core.job import Job
from incr_core.predict import evaluate, load_version, predictions
from incr_core.runner import run


def learned(table: Path, label: str, objective: str, out: Path) -> Path:
    """A run on the made-up table, with the default model and columns."""
    document = {
        "stream": {"path": str(table), "every": 250},
        "features": {"label": label, "numeric": ["height", "weight"], "categorical": ["colour"]},
        "learner": {"objective": objective, "epochs": 3, "batch_size": 32, "optimizer": {"name": "adam", "lr": 0.01}},
        "strategy": [{"name": "replay", "capacity": 500}],
    }
    run(Job.from_document(document).resolved(), out)
    return out


def test_binary_predictions_are_probabilities_and_evaluate_agrees_with_scikit_learn(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = learned(table, "tall", "binary", tmp_path / "run")
    assert main(["predict", str(out), str(table), "-o", str(tmp_path / "out.parquet")]) == 0
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == ["row", "probability"]
    assert found["row"].to_pylist() == list(range(2000))
    capsys.readouterr()
    assert main(["evaluate", str(out), str(table), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    truth = pq.read_table(table)["tall"].to_numpy()
    assert measured["auc"] == pytest.approx(roc_auc_score(truth, found["probability"].to_numpy()), abs=1e-3)
    assert measured["auc"] > 0.9


def test_multiclass_predictions_name_the_classes(table: Path, tmp_path: Path) -> None:
    version = load_version(learned(table, "size", "multiclass", tmp_path / "run"))
    found = predictions(version, table)
    names = ["large", "medium", "small"]
    assert found.column_names == ["row", "class", *(f"probability.{name}" for name in names)]
    matrix = np.stack([found[f"probability.{name}"].to_numpy() for name in names], axis=1)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-5)
    assert found["class"].to_pylist() == [names[index] for index in matrix.argmax(axis=1)]
    truth = np.array(pq.read_table(table)["size"].to_pylist())
    assert (truth == np.array(found["class"].to_pylist())).mean() == pytest.approx(evaluate(version, table)["accuracy"])


def test_regression_predicts_in_the_unit_of_its_label(table: Path, tmp_path: Path) -> None:
    version = load_version(learned(table, "score", "regression", tmp_path / "run"))
    values = predictions(version, table)["value"].to_numpy()
    truth = pq.read_table(table)["score"].to_numpy()
    error = mean_absolute_error(truth, values)
    assert evaluate(version, table)["mae"] == pytest.approx(error, rel=1e-4)
    assert error < 0.6 * np.abs(truth - truth.mean()).mean()


def test_rows_without_labels_are_predicted_and_rows_that_cannot_be_used_are_left_out(
    table: Path, tmp_path: Path
) -> None:
    version = load_version(learned(table, "tall", "binary", tmp_path / "run"))
    rows = pq.read_table(table).slice(0, 5).drop_columns(["tall"])
    heights = rows["height"].to_numpy().copy()
    heights[2] = np.nan
    pq.write_table(rows.set_column(0, "height", [heights]), tmp_path / "new.parquet")
    found = predictions(version, tmp_path / "new.parquet")
    assert found["row"].to_pylist() == [0, 1, 3, 4]
    with pytest.raises(StreamError, match="tall"):
        evaluate(version, tmp_path / "new.parquet")


def test_rates_of_new_rows_come_from_the_history_of_the_version(
    flights: Path, flights_job: Callable[..., Job], tmp_path: Path
) -> None:
    day = flights / "2013-01-07.parquet"
    rest = tmp_path / "until"
    rest.mkdir()
    for path in sorted(flights.glob("*.parquet")):
        if path.name < day.name:
            (rest / path.name).write_bytes(path.read_bytes())
    run(flights_job(f'stream.path="{rest}"'), tmp_path / "run")
    version = load_version(tmp_path / "run")
    assert version.history is not None
    with_history = predictions(version, day)["probability"].to_numpy()
    version.history = None
    without = predictions(version, day)["probability"].to_numpy()
    assert with_history.shape == without.shape
    assert not np.allclose(with_history[:50], without[:50])


def test_rollback_changes_what_is_served_and_the_champion_is_marked(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = learned(table, "tall", "binary", tmp_path / "run")
    latest = predictions(load_version(out), table)
    assert main(["rollback", str(out), "2"]) == 0
    assert "champion: version 2 (was 8)" in capsys.readouterr().out
    served = predictions(load_version(out), table)
    assert served == predictions(load_version(out, 2), table)
    assert served != latest
    assert main(["versions", str(out)]) == 0
    champions = [line for line in capsys.readouterr().out.splitlines() if line.endswith("champion")]
    assert len(champions) == 1
    assert champions[0].split()[0] == "2"
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "report.html")


def test_predictions_go_to_standard_output_as_csv(
    table: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    out = learned(table, "tall", "binary", tmp_path / "run")
    capfdbinary.readouterr()
    assert main(["predict", str(out), str(table)]) == 0
    import io

    printed = pyarrow.csv.read_csv(io.BytesIO(capfdbinary.readouterr().out))
    assert printed.column_names == ["row", "probability"]
    assert printed.num_rows == 2000
