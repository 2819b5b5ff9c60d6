"""Drifts are found, calm is not disturbed, and a monitor stopped and resumed is one that never stopped."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from incr_core.drift._detectors import DETECTORS
from incr_core.drift._monitor import DriftMonitor
from incr_core.errors import ArgumentError, CheckpointError, JobError

pytest.importorskip("river")

Values = npt.NDArray[np.float64]
every_detector = pytest.mark.parametrize("detector", DETECTORS)


def errors(rows: int, rate: float, seed: int = 0) -> Values:
    return (np.random.default_rng(seed).random(rows) < rate).astype(np.float64)


def stationary(rows: int, detector: str) -> dict[str, Values]:
    rng = np.random.default_rng(7)
    streams = {"errors": (rng.random(rows) < 0.2).astype(np.float64)}
    if detector != "kswin":
        streams |= {f"few errors {seed}": errors(rows, 0.005, seed) for seed in (501, 510)}
    if detector in ("adwin", "page_hinkley"):
        streams["log loss"] = -np.log(rng.beta(4, 1, size=rows))
        streams["minutes"] = 300.0 * rng.exponential(size=rows)
        streams["heavy tail"] = np.exp(rng.normal(size=rows))
        streams["tiny and far from zero"] = 5.0 + 1e-4 * rng.normal(size=rows)
    return streams


@every_detector
def test_at_most_one_false_alarm_in_100_000_stationary_rows(detector: str) -> None:
    for name, values in stationary(100_000, detector).items():
        assert len(DriftMonitor(detector).update(values)) <= 1, name


@every_detector
@pytest.mark.parametrize("seed", range(3))
def test_three_planted_drifts_are_found_within_2_000_rows(detector: str, seed: int) -> None:
    rates, rows = (0.05, 0.25, 0.5, 0.8), 8_000
    stream = np.concatenate([errors(rows, rate, 10 * seed + i) for i, rate in enumerate(rates)])
    found = DriftMonitor(detector).update(stream)
    delays = [next(row - planted for row in found if row >= planted) for planted in (8_000, 16_000, 24_000)]
    assert max(delays) < 2_000
    assert len(found) <= 4


@pytest.mark.parametrize("detector", ["adwin", "page_hinkley", "kswin"])
def test_features_drift_both_ways_and_a_loss_only_up(detector: str) -> None:
    parts = [np.random.default_rng(i).normal(mean, 1.0, size=5_000) for i, mean in enumerate((0, -1, 0, 1))]
    values = np.concatenate(parts)
    starts = [5_000, 10_000, 15_000]
    assert [row // 5_000 * 5_000 for row in DriftMonitor(detector, "features").update(values)] == starts
    assert [row // 5_000 * 5_000 for row in DriftMonitor(detector, "loss").update(values)] == starts[1:]
    # A metric is the negative of a loss, and comes as one value for an increment, not for a row.
    per_increment = -values.reshape(-1, 50).mean(1)
    assert len(DriftMonitor(detector, "metric").update(per_increment)) == 2


def test_kswin_sees_a_change_of_shape_that_keeps_the_mean() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 500), rng.normal(0, 8, 200)])
    monitor = DriftMonitor("kswin", "features", block=1, window_size=200, stat_size=100)
    assert monitor.update(values)[0] >= 500


def test_one_column_of_many_is_enough_and_the_others_keep_still() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20_000, 8))
    values[12_000:, 5] += 1.0
    found = DriftMonitor("adwin", "features").update(values)
    assert len(found) == 1
    assert 12_000 <= found[0] < 14_000


# -- state --


@every_detector
def test_stopping_anywhere_changes_nothing(detector: str) -> None:
    stream = np.concatenate([errors(3_000, 0.05), errors(3_000, 0.6)])
    whole = DriftMonitor(detector)
    expected = whole.update(stream)
    assert expected
    resumed, found = DriftMonitor(detector), []
    for start in range(0, len(stream), 701):
        found += [start + row for row in resumed.update(stream[start : start + 701])]
        text = json.dumps(resumed.state_dict(), allow_nan=False)
        resumed = DriftMonitor(detector)
        resumed.load_state_dict(json.loads(text))
    assert found == expected
    assert resumed.state_dict() == whole.state_dict()


def test_a_fresh_monitor_has_a_state_too() -> None:
    monitor = DriftMonitor()
    monitor.load_state_dict(DriftMonitor().state_dict())
    assert monitor.update(np.empty(0)) == []
    assert monitor.update(np.ones(5_000)) == []


def test_values_that_are_not_finite_are_left_out() -> None:
    stream = np.concatenate([errors(4_000, 0.1), errors(2_000, 0.6)])
    holes = np.repeat(stream, 2)
    holes[::2] = np.nan
    holes[100] = np.inf
    plain = DriftMonitor("adwin", block=32).update(stream)
    assert DriftMonitor("adwin", block=64).update(holes) == [2 * row + 1 for row in plain]
    monitor = DriftMonitor()
    assert monitor.update(np.full(1_001, np.nan)) == []
    json.dumps(monitor.state_dict(), allow_nan=False)


# -- bad input --


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"detector": "adwim"}, "drift.detector: expected one of adwin, .* got 'adwim'"),
        ({"watch": "los"}, "drift.watch: expected loss, metric or features, got 'los'"),
        ({"detector": "ddm", "watch": "features"}, "ddm counts errors, .* use adwin"),
        ({"detector": "ddm", "block": 32}, "ddm counts errors row by row, got block = 32"),
        ({"block": 0}, "drift.block: expected at least one row, got 0"),
        ({"warm_up": 1}, "drift.warm_up: expected at least two blocks, got 1"),
        ({"delta_": 0.1}, "drift.adwin: .*delta_"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        DriftMonitor(**arguments)


def test_wrong_values_are_named() -> None:
    with pytest.raises(ArgumentError, match="ddm counts errors, expected 0 or 1"):
        DriftMonitor("ddm").update(np.array([0.0, 0.37]))
    monitor = DriftMonitor(watch="features")
    monitor.update(np.zeros((10, 3)))
    with pytest.raises(ArgumentError, match="expected 3 columns as before, got 2"):
        monitor.update(np.zeros((10, 2)))


def test_the_state_of_another_detector_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"drift.detector: expected 'ddm', saved was 'adwin'"):
        DriftMonitor("ddm").load_state_dict(DriftMonitor("adwin").state_dict())


def test_without_river_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "river", None)
    with pytest.raises(JobError, match=r"needs river, .* pip install 'incr\[drift\]'"):
        DriftMonitor()
