"""`incr compare`: runs side by side, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from incr_core.commands.cli import main
from incr_core.runs import Run, open_run
from tests.support.made_up import made_up


def learned(out: Path, rows: int = 80, **settings: Any) -> Run:
    table = made_up(rows).select(["height", "weight", "tall"])
    return open_run(out, stream=table, label="tall", classes=[0, 1], hidden=[4], every=20, **settings).run()


def test_runs_are_compared_by_metrics_and_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = learned(tmp_path / "plain")
    replay = learned(tmp_path / "replay", strategies=[{"name": "replay", "capacity": 30}])
    page = tmp_path / "page.html"
    assert main(["compare", str(plain.path), str(replay.path), "--out", str(page)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].split()[:4] == ["run", "engine", "auc", "+/-"]
    assert [line.split()[:2] for line in told[1:3]] == [["plain", "local"], ["replay", "local"]]
    values = [run.summary.prequential["auc"] for run in (plain, replay)]
    assert told[2].split()[2:4] == [f"{values[1]:.4f}", f"{values[1] - values[0]:+.4f}"]
    assert told[3] == "  strategy: - (plain), replay (capacity 30) (replay)"
    assert len(told) == 5
    html = page.read_text()
    assert html.count("<svg") == 2  # one for a phone
    for text in ("<b>replay</b>", f"{values[0]:.4f}", "replay (capacity 30)"):
        assert text in html


def test_what_is_not_comparable_is_said_and_names_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(learned(tmp_path / folder / "run", rows).path) for folder, rows in (("a", 80), ("b", 60))]
    assert main(["compare", *runs, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in told["runs"]] == runs
    assert told["cautions"] == [f"metrics are over different numbers of rows: {runs[0]} 80, {runs[1]} 60"]
    assert told["settings"] == {}
    assert [one["rows_learned"] for one in told["runs"]] == [80, 60]
    Run(runs[0]).rollback(3)
    assert main(["compare", *runs, "--json"]) == 0
    assert [one["rows_learned"] for one in json.loads(capsys.readouterr().out)["runs"]] == [60, 60]
    assert main(["compare", runs[0]]) == 2
    assert "runs: expected at least two to compare, got 1" in capsys.readouterr().err
    assert main(["compare", runs[0], str(tmp_path / "nowhere")]) == 2
    assert "nowhere: expected a run directory, found none" in capsys.readouterr().err
