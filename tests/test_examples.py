"""Every example runs, on a slice where it is long."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from examples.notebook import notebook
from incr_core.job import Job
from incr_core.runs import run
from incr_core.strategies import STRATEGIES
from incr_core.testing._laws import check_strategy
from tests.support.repository import ROOT


@pytest.mark.slow
def test_the_flights_job_learns_a_week(flights: Path, tmp_path: Path) -> None:
    settings = [f'stream.path="{flights}"', 'stream.warm_start="2013-01-04"', "learner.warm_epochs=1"]
    summary = run(Job.read(ROOT / "examples/flights/job.toml", settings), tmp_path / "run").summary
    assert summary.rows_learned == sum(pq.read_metadata(path).num_rows for path in flights.glob("*.parquet"))
    assert summary.prequential["auc"] > 0.6
    assert {path.name for path in (tmp_path / "run/baselines").iterdir()} == {"frozen", "no replay"}


@pytest.mark.slow
def test_a_strategy_of_ones_own_runs_and_keeps_the_laws(tmp_path: Path) -> None:
    folder = ROOT / "examples/own_strategy"
    summary = run(Job.read(folder / "job.toml"), tmp_path / "run").summary
    assert summary.prequential["auc"] > 0.95
    own = STRATEGIES.find("gradient_noise:GradientNoise", "strategy.name", str(folder))
    check_strategy(own, zero=lambda: own(strength=0.0))


@pytest.mark.slow
def test_an_objective_of_ones_own_runs_and_covers_nine_in_ten(tmp_path: Path) -> None:
    summary = run(Job.read(ROOT / "examples/own_objective/job.toml"), tmp_path / "run").summary
    assert summary.main_metric == "pinball"
    assert 0.8 < summary.prequential["coverage"] < 0.95


@pytest.mark.slow
def test_ratings_are_predicted_and_choices_are_ranked_better_than_by_popularity(tmp_path: Path) -> None:
    folder = ROOT / "examples/ratings"
    rated = run(Job.read(folder / "job.toml"), tmp_path / "rated")
    assert rated.summary.prequential["mae"] < 0.56
    best = rated.champion.recommend(42, 3)
    assert best.column_names == ["film_id", "value"]
    chosen = run(Job.read(folder / "choices.toml"), tmp_path / "chosen")
    found = chosen.summary.prequential
    assert found["recall@10"] > found["popularity recall@10"] + 0.02
    assert chosen.champion.recommend("nobody", 3).num_rows == 3


@pytest.mark.slow
def test_a_notebook_goes_on_with_the_days_that_have_come(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert notebook.run(out, days=2).summary.rows_learned == 800
    grown = notebook.run(out, days=4)
    assert [version.rows for version in grown.versions] == [200] * 8
    assert grown.summary.prequential["auc"] > 0.8
    assert grown.summary.model_sha256 == notebook.run(str(tmp_path / "whole"), days=4).summary.model_sha256


@pytest.mark.slow
def test_rare_events_are_found_by_uniform_shares(tmp_path: Path) -> None:
    done = run(Job.read(ROOT / "examples/rare_events/job.toml"), tmp_path / "run")
    ours, plain = done.summary.prequential, done.baselines["stream shares"].summary.prequential
    assert ours["macro_recall"] > plain["macro_recall"] + 0.1
    assert ours["average_precision"] == pytest.approx(plain["average_precision"], abs=0.02)
    assert plain["base_rate"] < 0.02


@pytest.mark.slow
def test_a_sensor_stream_is_followed_through_its_drift(tmp_path: Path) -> None:
    pytest.importorskip("river")
    done = run(Job.read(ROOT / "examples/sensors/job.toml"), tmp_path / "run")
    assert done.summary.prequential["mae"] < 0.2 * done.baselines["frozen"].summary.prequential["mae"]
    assert "drift" in done.table("events")["kind"].to_pylist()


@pytest.mark.slow
@pytest.mark.text
def test_a_transformer_sorts_tickets_by_what_lora_learns(tmp_path: Path) -> None:
    settings = ["learner.warm_epochs=4", "learner.epochs=1", "model.arguments.layers=1", "learner.optimizer.lr=0.01"]
    done = run(Job.read(ROOT / "examples/texts/job.toml", settings), tmp_path / "run")
    assert done.summary.prequential["accuracy"] > 0.38  # a constant has a third
    first, last = done.version(1).learner.weights(), done.champion.learner.weights()
    moved = {name for name in last if not torch.equal(first[name], last[name])}
    assert moved
    assert all("lora_" in name or "head" in name or "counts" in name for name in moved)
