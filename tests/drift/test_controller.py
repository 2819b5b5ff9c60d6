"""Drift in a job: noticed in what is known before it is learned, and acted on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from incr_core.engines import LocalEngine
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.registry import RunDirectory
from incr_core.runs import run
from tests.support.drifting import EVERYTHING, drifting, job

pytest.importorskip("river")

PLANTED = (6_000, 12_000, 18_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    pq.write_table(drifting(24_000, PLANTED), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def drifts(folder: Path) -> list[int]:
    return [event["rows"] for event in RunDirectory.open(folder).table("events").to_pylist()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "drift",
    [
        {"detector": "adwin"},
        {"detector": "page_hinkley", "watch": "loss"},
        {"detector": "kswin", "watch": "error"},
        {"detector": "ddm", "watch": "error"},
        {"detector": "adwin", "watch": "features", "columns": ["z"]},
        {"detector": "page_hinkley", "watch": "accuracy", "warm_up": 16},
    ],
)
def test_three_planted_drifts_are_found_within_2_000_rows(path: Path, tmp_path: Path, drift: dict[str, Any]) -> None:
    summary = run(job(path, "publish.every=100", drift=[drift]), tmp_path / "run").summary
    found = drifts(tmp_path / "run")
    delays = [next((row - planted for row in found if row >= planted), 24_000) for planted in PLANTED]
    assert max(delays) < 2_000, found
    assert len(found) <= 4, found
    assert summary.events == {"drift": len(found)}
    page = (tmp_path / "run" / "report.html").read_text()
    assert 'id="event drift"' in page
    assert "after " in page


@pytest.mark.slow
def test_at_most_one_false_alarm_in_100_000_stationary_rows(tmp_path: Path) -> None:
    pq.write_table(drifting(100_000), tmp_path / "rows.parquet")
    wanted = job(
        tmp_path / "rows.parquet",
        "learner.batch_size=500",
        every=2_000,
        drift=[
            {"detector": "adwin"},
            {"detector": "page_hinkley"},
            {"detector": "kswin"},
            *({"detector": detector, "watch": "error"} for detector in ("adwin", "page_hinkley", "ddm")),
        ],
    )
    assert run(wanted, tmp_path / "run").summary.events.get("drift", 0) <= 1  # of all six together


REPLAY = {"name": "replay", "capacity": 300}


@pytest.mark.slow
def test_a_run_stopped_and_resumed_anywhere_is_one_that_never_stopped(path: Path, tmp_path: Path) -> None:
    strategies = [REPLAY, {"name": "ewc", "strength": 5.0}, {"name": "lwf"}]
    settings = ("learner.consolidate=3000", "publish.every=3", 'learner.optimizer={name="adam",lr=0.001}')
    pq.write_table(pq.read_table(path).slice(0, 13_500), path)
    wanted = job(path, *settings, drift=EVERYTHING, strategy=strategies)
    whole = run(wanted, tmp_path / "whole").summary.document()
    assert whole["events"]["drift"] >= 3
    for stop in (26, 27, 50):
        stopping(wanted, tmp_path / "parts", stop)
    parts = run(wanted, tmp_path / "parts").summary.document()
    assert {key: parts[key] for key in ("model_sha256", "events")} == {
        key: whole[key] for key in ("model_sha256", "events")
    }
    assert drifts(tmp_path / "parts") == drifts(tmp_path / "whole")


def stopping(wanted: Job, out: Path, increments: int) -> None:
    with RunDirectory.create(out, wanted.toml(), f"local:{wanted.fingerprint()}") as directory:
        loop = Loop(wanted, LocalEngine(wanted, out), directory)
        loop.on_progress = lambda _: loop._stop.set() if loop.totals.increments >= increments else None
        loop.run()
        loop.engine.close()


class Told(LocalEngine):
    """An engine that remembers what it was told to do, and what its learner was like before each increment."""

    def __init__(self, wanted: Job, directory: Path) -> None:
        super().__init__(wanted, directory)
        self.ordered: list[tuple[int, Any]] = []
        self.rates: list[float] = []
        self.held: list[tuple[int, int]] = []

    def order(self, orders: Any, weights: Any = None) -> None:
        super().order(orders, weights)
        self.ordered.append((len(self.rates), orders))

    def learn(self, arrivals: Any, rows: Any = None) -> Any:
        learner = self.participant.learner
        self.rates.append(learner.descent.rate)
        self.held += [(memory.capacity, memory.size) for memory in learner.memories()]
        assert learner.optimizer.param_groups[0]["lr"] == 0.01
        return super().learn(arrivals, rows)


@pytest.fixture
def told(path: Path, tmp_path: Path) -> Callable[..., Told]:
    def make(*settings: str, **sections: Any) -> Told:
        # Without a gate, whose verdicts are orders too.
        wanted = job(path, "publish.gate=false", *settings, **sections)
        folder = tmp_path / wanted.fingerprint()[:8]
        with RunDirectory.create(folder, wanted.toml(), "f") as directory:
            engine = Told(wanted, folder)
            Loop(wanted, engine, directory).run()
        return engine

    return make


@pytest.mark.slow
def test_actions_are_taken_before_the_increment_that_told_of_the_drift_is_learned(told: Callable[..., Told]) -> None:
    features = {"watch": "features", "columns": ["z"]}
    actions = {"action": ["raise_rate", "enlarge_replay"], "rate": 4.0, "lasting": 2, "enlarge": 1.5}
    engine = told(drift=[features | actions], strategy=[REPLAY])
    moments = [at for at, orders in engine.ordered if orders.enlarge > 1]
    assert len(moments) == 3
    assert all(0 <= at - planted // 250 < 8 for at, planted in zip(moments, PLANTED, strict=True))
    raised = [at for at, rate in enumerate(engine.rates) if rate == 4.0]
    assert raised == [at + after for at in moments for after in (0, 1)]
    assert [engine.held[at][0] for at in (0, *moments)] == [300, 450, 675, 1012]

    flushing = told(drift=[features | {"action": "flush_replay"}], strategy=[REPLAY])
    assert [flushing.held[at] for at, _ in flushing.ordered] == [(300, 0)] * 3


@pytest.mark.slow
def test_strategies_consolidate_every_so_many_rows_or_at_a_drift(told: Callable[..., Told]) -> None:
    ewc = [{"name": "ewc", "strength": 5.0}]
    by_rows = told("learner.consolidate=3000", strategy=ewc)
    assert [at for at, orders in by_rows.ordered if orders.consolidate] == list(range(12, 97, 12))
    drift = [{"watch": "features", "columns": ["z"], "action": "consolidate"}]
    at_drift = told("learner.consolidate=drift", strategy=ewc, drift=drift)
    assert len(at_drift.ordered) == 3
    assert at_drift.participant._unconsolidated is not None
    assert at_drift.participant._unconsolidated.number == 3


@pytest.mark.slow
def test_rewarming_returns_to_the_champion(told: Callable[..., Told], tmp_path: Path) -> None:
    drift = [{"watch": "features", "columns": ["z"], "action": "rewarm"}]
    seen: list[int] = []

    class Engine(Told):
        def order(self, orders: Any, weights: Any = None) -> None:
            super().order(orders, weights)
            latest = RunDirectory.open(self.directory)
            expected, _ = latest.load(latest.champion())
            seen.append(latest.champion() or 0)
            assert all(torch.equal(value, expected[name]) for name, value in self.weights().items())

    path = tmp_path / "rows.parquet"
    wanted = job(path, drift=drift)
    with RunDirectory.create(tmp_path / "warm", wanted.toml(), "f") as directory:
        Loop(wanted, Engine(wanted, tmp_path / "warm"), directory).run()
    assert len(seen) == 3
    assert seen[0] < seen[1] < seen[2]


@pytest.mark.slow
def test_a_watch_that_only_alerts_changes_no_bit(path: Path, tmp_path: Path) -> None:
    silent = run(job(path), tmp_path / "silent").summary
    assert run(job(path, drift=[{"watch": "loss"}]), tmp_path / "alert").summary.model_sha256 == silent.model_sha256


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('drift={detector="adwim"}', "drift.0.detector"),
        ('drift={action="consolidate_all"}', "expected an action, got 'consolidate_all'; did you mean 'consolidate'"),
        ('drift={action="consolidate"}', 'set learner.consolidate = "drift"'),
        ('drift={action="flush_replay"}', '"flush_replay" needs a strategy with a memory'),
        ('drift={detector="ddm"}', "ddm counts errors, got 'loss'; set watch = \"error\""),
        ('drift={watch="acuracy"}', "expected what to watch, got 'acuracy'; did you mean 'accuracy'"),
        ('drift={watch="features", columns=["q"]}', "drift.columns: expected a numeric feature, got 'q'"),
        ('drift={columns=["x"]}', 'expected watch = "features" with columns'),
        ("learner.consolidate=drift", r"expected a \[\[drift\]\] with action"),
        ("learner.consolidate=0", "learner.consolidate"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(path: Path, settings: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        job(path, settings).controller()


def test_a_number_has_a_loss_and_no_error(path: Path) -> None:
    regression = ("learner.objective=regression", "features.classes=[]")
    job(path, *regression, "drift={watch='loss'}").controller()
    with pytest.raises(JobError, match="regression predictions have no error; watch a metric"):
        job(path, *regression, "drift={watch='error'}").controller()
