"""`incr init`: rows are looked at, told, and become a job that runs as it is."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import pytest

from incr_core.commands.cli import main
from incr_core.job import Job, propose
from incr_core.runs import Run, Version

ROWS = 600


def orders(rows: int = ROWS) -> dict[str, Any]:
    """Columns of every kind, and a label that three of them tell of."""
    draw = np.random.default_rng(0)
    at = np.datetime64("2026-01-01", "us") + np.arange(rows) * np.timedelta64(3600, "s").astype("m8[us]")
    price, member = draw.normal(50, 20, rows).round(2), draw.random(rows) < 0.3
    back = price + 20 * member + draw.normal(0, 10, rows) > 60
    words = np.array(
        [
            "the",
            "parcel",
            "came",
            "late",
            "again",
            "and",
            "box",
            "was",
            "broken",
            "but",
            "nice",
            "colour",
            "fits",
            "well",
        ]
    )
    return {
        "row": np.arange(rows),
        "ordered_at": at,
        "returned_at": at + np.timedelta64(3, "D"),
        "price": pa.array(price, mask=draw.random(rows) < 0.05),
        "customer_id": draw.integers(0, 90, rows),
        "colour": draw.choice(["red", "green", "blue"], rows),
        "member": member,
        "born": (np.datetime64("1980-01-01") + draw.integers(0, 9000, rows)).astype("datetime64[D]"),
        "note": [" ".join(draw.choice(words, 9)) for _ in range(rows)],
        "country": ["DE"] * rows,
        "refund": np.where(back, "yes", "none"),
        "code": [f"{draw.integers(1 << 60):x}" for _ in range(rows)],
        "back": pa.array(back.astype(int), mask=np.arange(rows) % 100 == 99),
    }


def kinds(job: Path) -> dict[str, list[str]]:
    features = tomllib.loads(job.read_text())["features"]
    return {key: value for key, value in features.items() if isinstance(value, list)}


KINDS = {
    "numeric": ["price"],
    "categorical": ["customer_id", "colour", "member"],
    "text": ["note"],
    "date": ["born"],
    "exclude": ["row", "returned_at", "country", "refund", "code"],
}


def as_parquet(table: pa.Table, path: Path) -> Path:
    pq.write_table(table, path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def as_csv(table: pa.Table, path: Path) -> Path:
    pyarrow.csv.write_csv(table, path.with_suffix(".csv"))
    return path.with_suffix(".csv")


def as_json(table: pa.Table, path: Path) -> Path:
    table.to_pandas().to_json(path.with_suffix(".jsonl"), orient="records", lines=True, date_format="iso")
    return path.with_suffix(".jsonl")


@pytest.mark.parametrize("write", [as_parquet, as_csv, as_json])
def test_columns_are_told_apart_in_every_format(
    write: Callable[[pa.Table, Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, out = write(pa.table(orders()), tmp_path / "orders"), tmp_path / "job.toml"
    assert main(["init", str(rows), "--label", "back", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert kinds(out) == KINDS
    written = tomllib.loads(out.read_text())
    assert written["stream"] == {"path": rows.name, "predict_at": "ordered_at", "every": "1d"}
    assert written["learner"]["objective"] == "binary"
    for words in (
        "gives back away by itself",
        "it counts the rows",
        "mostly after ordered_at",
        "6 of these rows have no label",
    ):
        assert words in told
    assert 'label_at = "returned_at"' in out.read_text()


def test_the_job_runs_as_it_is_and_its_predictions_keep_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, out, run = as_parquet(pa.table(orders()), tmp_path / "orders"), tmp_path / "job.toml", tmp_path / "run"
    main(["init", str(rows), "--label", "back", "--out", str(out)])
    capsys.readouterr()
    assert main(["run", str(out), "--out", str(run)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:5] == [
        "label: back (binary, 2 classes: 0, 1)",
        "numbers: price",
        "categories: customer_id, colour, member",
        "text: note",
        "dates: born",
    ]
    assert Run(run).summary.rows_quarantined == 6
    assert "customer_id, colour, member" in (run / "report.html").read_text()
    assert main(["predict", str(run), str(rows), "--keep", "code,row_", "-o", str(tmp_path / "out.csv")]) == 2
    assert 'expected a column "row_"' in capsys.readouterr().err
    assert main(["predict", str(run), str(rows), "--keep", "code,customer_id", "-o", str(tmp_path / "out.csv")]) == 0
    found = pyarrow.csv.read_csv(tmp_path / "out.csv")
    assert found.column_names == ["row", "code", "customer_id", "probability"]
    assert found["code"].to_pylist() == orders()["code"]
    assert found["probability"].to_numpy() == pytest.approx(
        Version.load(run).predict(pa.table(orders()))["probability"].to_numpy(), abs=1e-6
    )
    assert main(["predict", str(run), str(rows), "--keep", "row"]) == 2
    assert "--keep row: expected a column that predictions do not have" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("label", "objective", "told"),
    [
        ([0.5 + 0.1 * i for i in range(100)], "regression", "regression: numbers from 0.5 to 10.4"),
        (list(range(50)) * 2, "regression", "regression: numbers from 0 to 49"),
        ([1, 2, 3, 4, 5] * 20, "multiclass", "multiclass: 1 20%, 2 20%, 3 20%, 4 20%, and 1 more"),
        (["a", "b"] * 50, "binary", "binary: a 50%, b 50%"),
        ([True, False] * 50, "binary", "binary: true 50%, false 50%"),
        ([None, "a", "b", "c"] * 25, "multiclass", "multiclass: a 33%, b 33%, c 33%"),
        ([["a"], ["a", "b"]] * 50, "multilabel", "multilabel: lists of labels"),
    ],
)
def test_an_objective_for_each_kind_of_label(label: list[Any], objective: str, told: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=len(label))
    rows = as_parquet(pa.table({"x": x, "y": label}), tmp_path / "rows")
    found = propose(rows, "y").label
    assert found is not None
    assert (found.objective, found.told) == (objective, told)


@pytest.mark.parametrize(
    ("columns", "arguments", "said"),
    [
        (
            {"x": [1], "size": [2]},
            ["--label", "sise"],
            "--label: expected a column of {}, got 'sise'; did you mean 'size'?",
        ),
        (
            {"x": [1, 2], "y": [7, 7]},
            ["--label", "y"],
            '--label y: expected at least two values to tell apart, got "7"',
        ),
        ({"x": [1, 2], "y": ["", None]}, ["--label", "y"], "got no value in any row"),
        ({"x": [1] * 9, "y": [1, 2, 3] * 3}, ["--label", "y"], "--label y: expected other columns to predict it from"),
        ({"x": [1, 2], "y": [3, 4]}, [], "--label: expected the column that is to be predicted, got none"),
        ({"x": [], "y": []}, ["--label", "y"], "expected rows, got none"),
        ({"y": [f"u{i}" for i in range(99)], "x": [1] * 99}, ["--label", "y"], "got 99 distinct texts in 99 rows"),
    ],
)
def test_what_cannot_be_done_is_said(
    columns: dict[str, Any], arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, out = as_parquet(pa.table(columns), tmp_path / "rows"), tmp_path / "job.toml"
    assert main(["init", str(rows), "--out", str(out), *arguments]) == 2
    assert said.format(rows) in capsys.readouterr().err
    assert not out.exists()


def test_files_of_two_kinds_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,0\n2,1\n")
    (tmp_path / "b.csv").write_text("x,z\n1,0\n")
    assert main(["init", str(tmp_path), "--label", "y", "--out", str(tmp_path / "job.toml")]) == 2
    assert "b.csv: expected the columns of a.csv, got a file that lacks y and has z besides" in capsys.readouterr().err


def test_a_job_that_is_there_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, out = as_parquet(pa.table({"x": [1.5, 2.0], "y": [0, 1]}), tmp_path / "rows"), tmp_path / "job.toml"
    out.write_text("mine")
    assert main(["init", str(rows), "--label", "y", "--out", str(out)]) == 2
    assert "expected a new file in a folder that is there, got one that is there" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_names_that_toml_and_terminals_do_not_like(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = 'a "b"\n\x1b[31m#'
    draw = np.random.default_rng(0)
    rows = as_parquet(pa.table({odd: draw.normal(size=50), "y": draw.integers(0, 2, 50)}), tmp_path / "rows")
    assert main(["init", str(rows), "--label", "y", "--out", str(tmp_path / "job.toml")]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert Job.read(tmp_path / "job.toml").features.numeric == [odd]


def test_what_a_job_leaves_open_is_inferred_kept_and_said(tmp_path: Path) -> None:
    rows = as_parquet(pa.table(orders()), tmp_path / "orders")
    document = {
        "stream": {"path": str(rows), "predict_at": "ordered_at", "every": "1d"},
        "features": {"label": "back", "exclude": ["refund"], "on_bad_row": "quarantine"},
        "learner": {"objective": "binary"},
    }
    job = Job.from_document(document).resolved()
    assert job.features.numeric == ["price"]
    assert job.features.categorical == ["customer_id", "colour", "member", "country", "code"]
    assert job.features.text == ["note"]
    assert job.features.text_words == 16
    told = job.told_columns()
    assert told["left out"].startswith(
        "row (it counts the rows), returned_at (a time: features.date makes numbers of it)"
    )
    assert "customer_id (90 values, a whole number that names a thing)" in told["categories"]
    assert Job.from_document(job.document()).resolved() == job


def test_a_file_with_other_marks_between_its_columns_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("x;y\n1.5;0\n2.5;1\n")
    assert main(["init", str(tmp_path / "a.csv"), "--label", "y", "--out", str(tmp_path / "job.toml")]) == 2
    assert 'whose names seem to be parted by ";"' in capsys.readouterr().err


def test_a_table_of_ratings_gives_each_id_a_row_and_takes_stars_for_amounts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw, rows = np.random.default_rng(0), 3000
    table: dict[str, Any] = {"item_id": draw.integers(0, 200, rows), "user_id": draw.integers(0, 400, rows) + 7}
    table |= {"hour": draw.random(rows), "stars": draw.integers(1, 6, rows)}
    path, out = as_parquet(pa.table(table), tmp_path / "stars"), tmp_path / "job.toml"
    assert main(["init", str(path), "--label", "stars", "--out", str(out)]) == 0
    assert " ids, each with a row of numbers of its own" in capsys.readouterr().out
    written = tomllib.loads(out.read_text())
    assert written["features"]["ids"] == ["item_id", "user_id"]
    assert written["features"]["item"] == ["item_id"]
    assert written["features"]["numeric"] == ["hour"]
    assert (written["model"], written["learner"]) == ({"kind": "factorisation"}, {"objective": "regression"})
    assert "strategy" not in written
    assert Job.read(out).learner.optimizer.name == "adagrad"
    few = {**table, "user_id": draw.integers(0, 10, rows)}
    other = as_parquet(pa.table(few), tmp_path / "few")
    assert main(["init", str(other), "--label", "stars", "--out", str(tmp_path / "few.toml")]) == 0
    assert tomllib.loads((tmp_path / "few.toml").read_text())["model"] == {"kind": "auto"}
