"""`incr predict --explain` tells what each column does; `incr evaluate` tells whether rows were learned before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.commands.cli import main
from incr_core.errors import ArgumentError
from incr_core.runs import Run, explain, open_run

pytestmark = pytest.mark.slow


def rows(n: int, seed: int = 0) -> pa.Table:
    """The label depends on `a`, a little on `kind`, and not on `noise`."""
    rng = np.random.default_rng(seed)
    a, noise, kind = rng.normal(size=n), rng.normal(size=n), rng.integers(0, 2, n)
    y = (2 * a + 0.7 * kind + 0.2 * rng.normal(size=n) > 0).astype(int)
    return pa.table({"a": a, "noise": noise, "kind": np.where(kind == 1, "u", "v"), "y": y, "size": 3 * a + 7})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("explained")
    pq.write_table(rows(1500), folder / "rows.parquet")
    (folder / "job.toml").write_text(
        '[stream]\npath = "rows.parquet"\nevery = 100\n[features]\nlabel = "y"\nnumeric = ["a", "noise"]\n'
        'categorical = ["kind"]\n[model]\nhidden = [8]\n[learner]\nobjective = "binary"\nepochs = 3\n'
    )
    assert main(["run", str(folder / "job.toml"), "--out", str(folder / "run"), "--quiet"]) == 0
    return Run(folder / "run")


def test_columns_that_matter_come_first_and_rows_have_effects(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = rows(200, seed=1)
    pq.write_table(fresh, tmp_path / "new.parquet")
    out = tmp_path / "out.parquet"
    assert main(["predict", str(run.path), str(tmp_path / "new.parquet"), "--explain", "-o", str(out)]) == 0
    said = capsys.readouterr().err
    assert said.startswith("incr: mean effect on the probability: a ")
    order = [said.index(name) for name in (" a ", " kind ", " noise ")]
    assert order == sorted(order)
    found = pq.read_table(out)
    effect, value = found["effect.a"].to_numpy(), fresh["a"].to_numpy()
    assert effect[value > 1].min() > 0.1
    assert effect[value < -1].max() < -0.1
    assert abs(found["effect.noise"].to_numpy()).mean() < 0.1 * abs(effect).mean()
    plain = run.champion.predict(tmp_path / "new.parquet")
    assert found["probability"].equals(plain["probability"]), "asking for reasons changes no answer"


def test_a_row_that_cannot_be_predicted_has_no_effects(run: Run) -> None:
    table = rows(20).set_column(0, "a", pa.array([float("inf"), *rows(20)["a"].to_pylist()[1:]]))
    found = explain(run.champion, table)
    assert np.isnan(found.effects["a"]).tolist() == [True] + [False] * 19
    assert set(found.overall) == {"a", "noise", "kind"}


def test_effects_on_a_value_are_in_its_unit_and_on_a_class_those_of_the_predicted_one(tmp_path: Path) -> None:
    number = open_run(tmp_path / "a", stream=rows(1000), label="size", numeric=["a"], objective="regression", every=50)
    found = explain(number.run().champion, rows(300, seed=2), repeats=30)
    a = rows(300, seed=2)["a"].to_numpy()
    assert np.corrcoef(found.effects["a"], 3 * (a - a.mean()))[0, 1] > 0.95
    assert found.of == "value"
    classes = open_run(
        tmp_path / "b", stream=rows(600), label="kind", numeric=["a"], objective="multiclass", every=100
    ).run()
    assert explain(classes.champion, rows(50)).of == "probability of the predicted class"


def test_objectives_without_one_number_are_refused(tmp_path: Path) -> None:
    table = rows(60).append_column("z", pa.array([0, 1] * 30))
    run = open_run(tmp_path, stream=table, label=["y", "z"], numeric=["a"], objective="multilabel", every=30).run()
    with pytest.raises(ArgumentError, match=r"explain: expected a run of the objective binary, .* got multilabel"):
        explain(run.champion, table)


def test_evaluating_learned_rows_says_so_and_gives_the_prequential_figure(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = run.path.parent / "rows.parquet"
    copy = tmp_path / "copy.parquet"
    shutil.copy(stream, copy)
    table = run.table("metrics")
    for file, version, learned in ((stream, 15, 1500), (copy, 15, 1500), (stream, 4, 400)):
        assert main(["evaluate", str(run.path), str(file), "--version", str(version), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["rows_learned"] == learned
        at = table["version"].to_pylist().index(version)
        assert found["prequential"]["auc"] == pytest.approx(table["total.auc"][at].as_py())
    assert main(["evaluate", str(run.path), str(stream)]) == 0
    said = capsys.readouterr()
    assert "version 15 has learned 1,500 of the 1,500 rows of this file; these numbers measure memory" in said.err
    assert f"prequential auc {run.summary.prequential['auc']:.4f}" in said.err
    assert main(["evaluate", str(run.path), str(stream), "--version", "7"]) == 0
    said = capsys.readouterr()
    assert "version 7 has learned 700 of the 1,500 rows of this file; on all rows before they were learned" in said.err
    assert "memory" not in said.err


def test_rows_that_are_new_are_measured_without_a_word(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(rows(100, seed=3), tmp_path / "new.parquet")
    assert main(["evaluate", str(run.path), str(tmp_path / "new.parquet"), "--json"]) == 0
    said = capsys.readouterr()
    assert "rows_learned" not in json.loads(said.out)
    assert said.err == ""


def test_a_file_without_rows_is_said_to_have_none(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(rows(100, seed=3).slice(0, 0), tmp_path / "none.parquet")
    assert main(["predict", str(run.path), str(tmp_path / "none.parquet")]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1
    assert said.err == f"incr: 0 rows in {tmp_path}/none.parquet; nothing was predicted\n"


def test_ids_have_effects(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    who, what = rng.integers(0, 20, 1500), rng.integers(0, 20, 1500)
    table = pa.table({"who": who, "what": what, "stars": (who % 5 + 0.1 * rng.normal(size=1500))})
    model = {"kind": "factorisation"}
    run = open_run(
        tmp_path / "run",
        stream=table,
        label="stars",
        ids=["who", "what"],
        model=model,
        objective="regression",
        every=100,
    ).run()
    found = explain(run.champion, table.slice(0, 300))
    assert list(found.overall) == ["who", "what"]
    assert found.overall["who"] > 5 * found.overall["what"]
