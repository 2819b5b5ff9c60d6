"""Predict, evaluate, versions and promote: what one does with a run directory."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import tomli_w
import torch

from incr_core.commands.cli import main
from incr_core.commands.run import print_summary
from incr_core.errors import StreamError
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.report._course import Course, read_summary
from incr_core.runs import Version, run

pytestmark = pytest.mark.slow


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


@pytest.mark.slow
def test_binary_predictions_are_probabilities_and_evaluate_agrees_with_scikit_learn(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sklearn.metrics import roc_auc_score

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
    version = Version.load(learned(table, "size", "multiclass", tmp_path / "run"))
    found = version.predict(table)
    names = ["large", "medium", "small"]
    assert found.column_names == ["row", "class", *(f"probability.{name}" for name in names)]
    matrix = np.stack([found[f"probability.{name}"].to_numpy() for name in names], axis=1)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-5)
    assert found["class"].to_pylist() == [names[index] for index in matrix.argmax(axis=1)]
    truth = np.array(pq.read_table(table)["size"].to_pylist())
    assert (truth == np.array(found["class"].to_pylist())).mean() == pytest.approx(version.evaluate(table)["accuracy"])


def test_binary_predictions_name_the_classes_and_tell_the_probability_of_the_second(
    table: Path, tmp_path: Path
) -> None:
    rows = pq.read_table(table)
    named = pc.if_else(pc.equal(rows["tall"], 1), "tall", "short")
    pq.write_table(rows.append_column("build", named), tmp_path / "named.parquet")
    out = learned(tmp_path / "named.parquet", "build", "binary", tmp_path / "run")
    assert main(["predict", str(out), str(table), "-o", str(tmp_path / "out.csv")]) == 0
    found = pyarrow.csv.read_csv(tmp_path / "out.csv")
    assert found.column_names == ["row", "class", "probability"]
    assert found["class"].to_pylist() == ["tall" if p >= 0.5 else "short" for p in found["probability"].to_pylist()]
    assert pc.mean(pc.equal(found["class"], named)).as_py() > 0.8


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells of a machine without a GPU")
def test_what_was_learned_on_a_gpu_answers_without_one(table: Path, tmp_path: Path) -> None:
    out = learned(table, "size", "multiclass", tmp_path / "run")
    found = Version.load(out).predict(table)
    text = (out / "job.toml").read_text()
    assert 'device = "cpu"' in text
    (out / "job.toml").write_text(text.replace('device = "cpu"', 'device = "cuda"'))
    assert Version.load(out).predict(table).equals(found)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("stream.every=file", "All rows were predicted before any was learned, in one increment: set stream.every"),
        ("stream.warm_start=5000", "No row was predicted, since all came before stream.warm_start"),
        ("stream.every=1000", ""),
    ],
)
def test_metrics_that_say_nothing_of_what_was_learned_come_with_a_word(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, told: str
) -> None:
    job = tmp_path / "job.toml"
    job.write_text(f'[stream]\npath = "{table}"\n[features]\nlabel = "tall"\n[learner]\nobjective = "binary"\n')
    assert main(["run", str(job), "--out", str(tmp_path / "run"), "--set", setting]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["label: tall (binary, 2 classes: 0, 1)", "numbers: height, weight, score"]
    summary = lines[next(at for at, line in enumerate(lines) if " on local: " in line) :]
    assert len(summary) == 3 + bool(told)
    assert told in summary[2]
    assert told[:20] in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_regression_predicts_in_the_unit_of_its_label(table: Path, tmp_path: Path) -> None:
    from sklearn.metrics import mean_absolute_error

    version = Version.load(learned(table, "score", "regression", tmp_path / "run"))
    values = version.predict(table)["value"].to_numpy()
    truth = pq.read_table(table)["score"].to_numpy()
    error = mean_absolute_error(truth, values)
    assert version.evaluate(table)["mae"] == pytest.approx(error, rel=1e-4)
    assert error < 0.6 * np.abs(truth - truth.mean()).mean()


def test_an_offset_of_a_million_times_the_spread_changes_nothing_but_the_predictions(
    table: Path, tmp_path: Path
) -> None:
    rows = pq.read_table(table)
    found = {}
    for name, offset in (("near", 0.0), ("far", 1e6)):
        height = pc.add(pc.divide(rows["height"].cast(pa.float64()), 10.0), offset)
        pq.write_table(rows.append_column("far", height), tmp_path / f"{name}.parquet")
        version = Version.load(learned(tmp_path / f"{name}.parquet", "far", "regression", tmp_path / name))
        found[name] = version.predict(table)["value"].to_numpy() - offset
    assert np.abs(found["far"] - found["near"]).max() < 0.05 * found["near"].std()


@pytest.mark.parametrize(("label", "objective"), [("tall", "binary"), ("size", "multiclass"), ("score", "regression")])
def test_every_row_has_a_prediction_which_is_null_where_the_row_cannot_be_used(
    table: Path, tmp_path: Path, label: str, objective: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = learned(table, label, objective, tmp_path / "run")
    version = Version.load(out)
    rows = pq.read_table(table).slice(0, 5).drop_columns([label])
    heights = rows["height"].to_numpy().copy()
    heights[2] = np.nan
    pq.write_table(rows, tmp_path / "whole.parquet")
    pq.write_table(rows.set_column(0, "height", [heights]), tmp_path / "new.parquet")
    whole, found = (version.predict(tmp_path / f"{name}.parquet") for name in ("whole", "new"))
    assert found["row"].to_pylist() == [0, 1, 2, 3, 4]
    assert found.schema == whole.schema
    assert [found[name].is_null().to_pylist() for name in found.column_names[1:]] == [
        [False, False, True, False, False] for _ in found.column_names[1:]
    ]
    for usable, expected in zip(found.take([0, 1, 3, 4]).columns, whole.take([0, 1, 3, 4]).columns, strict=True):
        if pa.types.is_floating(expected.type):
            assert usable.to_pylist() == pytest.approx(expected.to_pylist(), rel=1e-4)
        else:
            assert usable == expected
    pq.write_table(rows.set_column(0, "height", [np.full(5, np.nan)]), tmp_path / "none.parquet")
    none = version.predict(tmp_path / "none.parquet")
    assert [none[name].null_count for name in none.column_names] == [0, *[5] * (none.num_columns - 1)]
    with pytest.raises(StreamError, match=label):
        version.evaluate(tmp_path / "new.parquet")
    capsys.readouterr()
    assert main(["predict", str(out), str(tmp_path / "new.parquet"), "-o", str(tmp_path / "out.parquet")]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("4 predictions: ")
    assert "1 of 5 rows of " in printed.err
    assert 'row 2: height: expected a finite number, got NaN or infinite ("nan")' in printed.err
    assert pq.read_table(tmp_path / "out.parquet") == found


def pixels(path: Path, rows: int = 60) -> Path:
    """Rows with a column of four pixels, which only the data tells the number of."""
    values = np.random.default_rng(0).random((rows, 4)).astype(np.float32)
    image = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 4)
    pq.write_table(pa.table({"image": image, "z": values[:, 1], "y": (values[:, 0] > 0.5).astype(int)}), path)
    return path


@pytest.mark.parametrize("kind", ["table", "pixels", "flights"])
def test_a_copied_run_directory_predicts_when_its_data_is_gone(
    kind: str, table: Path, flights: Path, flights_job: Callable[..., Job], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    if kind == "table":
        data = table
        learned(table, "tall", "binary", out)
    elif kind == "pixels":
        data = pixels(tmp_path / "pixels.parquet")
        document = {
            "stream": {"path": str(data), "every": 20},
            "features": {"label": "y", "numeric": ["image", "z"]},
            "learner": {"objective": "binary"},
        }
        run(Job.from_document(document).resolved(), out)
    else:
        data = tmp_path / "days"
        data.mkdir()
        for path in sorted(flights.glob("*.parquet"))[:2]:
            shutil.copy(path, data / path.name)
        run(flights_job(f'stream.path="{data}"'), out)
    new = tmp_path / "new.parquet"
    pq.write_table(pq.read_table(data).slice(0, 30), new)
    before, measured = Version.load(out).predict(new), Version.load(out).evaluate(new)
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(out, copy)
    shutil.rmtree(out)
    data.rename(tmp_path / "moved")
    version = Version.load(copy)
    assert version.predict(new) == before
    assert version.evaluate(new) == measured


def test_where_neither_job_nor_manifest_tells_how_long_lists_are_the_stream_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pixels(tmp_path / "pixels.parquet")
    document = {
        "stream": {"path": str(data), "every": 20},
        "features": {"label": "y", "numeric": ["image", "z"]},
        "learner": {"objective": "binary"},
    }
    run(Job.from_document(document).resolved(), tmp_path / "new")
    monkeypatch.setattr("incr_core.loop._commits.Commits._shape_of_rows", lambda commits: {})
    run(Job.from_document(document).resolved(), tmp_path / "old")
    assert "widths" not in RunDirectory.open(tmp_path / "old").versions()[0]
    job = tmp_path / "old" / "job.toml"
    mark, _, text = job.read_text().partition("\n")
    resolved = tomllib.loads(text)
    assert resolved["features"].pop("widths") == {"image": 4}
    job.write_text(f"{mark}\n{tomli_w.dumps(resolved)}")
    assert Version.load(tmp_path / "old").predict(data) == Version.load(tmp_path / "new").predict(data)
    data.rename(tmp_path / "moved.parquet")
    with pytest.raises(StreamError, match="where nothing is"):
        Version.load(tmp_path / "old")


def test_files_without_a_known_ending_are_in_the_format_of_the_stream(table: Path, tmp_path: Path) -> None:
    rows = pq.read_table(table)
    data = tmp_path / "people.dat"
    pyarrow.csv.write_csv(rows, data)
    document = {
        "stream": {"path": str(data), "format": "csv", "every": 500, "settle": "0s"},
        "features": {"label": "tall", "numeric": ["height", "weight"], "categorical": ["colour"]},
        "learner": {"objective": "binary"},
    }
    run(Job.from_document(document).resolved(), tmp_path / "run")
    version = Version.load(tmp_path / "run")
    assert version.predict(data) == version.predict(table)
    assert version.evaluate(data) == version.evaluate(table)


def test_what_is_not_finite_is_null_in_json(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is not JSON")

    rows = pq.read_table(table)
    alike = rows.filter(pc.equal(rows["tall"], 0))  # no AUC without both classes
    pq.write_table(alike, tmp_path / "alike.parquet")
    job = tmp_path / "job.toml"
    job.write_text(
        f"""
        [stream]
        path = "{tmp_path / "alike.parquet"}"
        every = 500
        [features]
        label = "tall"
        numeric = ["height", "weight"]
        classes = [0, 1]
        [learner]
        objective = "binary"
        """
    )
    out = tmp_path / "run"
    assert main(["run", str(job), "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert printed["prequential"]["auc"] is None
    assert json.loads((out / "summary.json").read_text(), parse_constant=refuse) == printed
    assert np.isnan(Course.of("ours", RunDirectory.open(out).table("metrics"), read_summary(out)).final)
    assert main(["evaluate", str(out), str(tmp_path / "alike.parquet"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=refuse)["auc"] is None
    print_summary(printed, str(out))
    assert "prequential auc nan" in capsys.readouterr().out


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
    version = Version.load(tmp_path / "run")
    assert version.history is not None
    with_history = version.predict(day)["probability"].to_numpy()
    version.history = None
    without = version.predict(day)["probability"].to_numpy()
    assert with_history.shape == without.shape
    assert not np.allclose(with_history[:50], without[:50])


def test_a_promotion_changes_what_is_served_and_the_champion_is_marked(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = learned(table, "tall", "binary", tmp_path / "run")
    latest = Version.load(out).predict(table)
    assert main(["promote", str(out), "2"]) == 0
    assert "champion: version 2 (was 8)" in capsys.readouterr().out
    served = Version.load(out).predict(table)
    assert served == Version.load(out, 2).predict(table)
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
