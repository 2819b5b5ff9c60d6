"""Drifts are found, calm is not disturbed, and a detector stopped and resumed is one that never stopped."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from incr_core.drift import Detector
from incr_core.drift._river import TESTS
from incr_core.errors import ArgumentError, CheckpointError

pytest.importorskip("river")

Values = npt.NDArray[np.float64]
every_test = pytest.mark.parametrize("test", TESTS)


def detector_of(test: str, change: str = "rise", **arguments: Any) -> Detector:
    """A detector of rows, or of errors one by one where the test wants them so."""
    return Detector(test, change, **({"block": 1} if test == "ddm" else {}) | arguments)


def drifts(detector: Detector, values: Values) -> list[int]:
    """The rows of a series, (n,) or (n, F), at which it drifts."""
    rows = values[:, None, None] if values.ndim == 1 else values[:, None]
    known = np.isfinite(rows)
    before = detector.rows
    sums = np.concatenate([np.where(known, rows, 0.0), known], axis=1)
    return [taken - before - 1 for taken in detector.update(sums, rows=1)]


def errors(rows: int, rate: float, seed: int = 0) -> Values:
    return (np.random.default_rng(seed).random(rows) < rate).astype(np.float64)


def stationary(rows: int, test: str) -> dict[str, Values]:
    rng = np.random.default_rng(7)
    streams = {"errors": (rng.random(rows) < 0.2).astype(np.float64)}
    if test != "kswin":
        streams |= {f"few errors {seed}": errors(rows, 0.005, seed) for seed in (501, 510)}
    if test in ("adwin", "page_hinkley"):
        streams["log loss"] = -np.log(rng.beta(4, 1, size=rows))
        streams["minutes"] = 300.0 * rng.exponential(size=rows)
        streams["heavy tail"] = np.exp(rng.normal(size=rows))
        streams["tiny and far from zero"] = 5.0 + 1e-4 * rng.normal(size=rows)
    return streams


@pytest.mark.slow
@every_test
def test_at_most_one_false_alarm_in_100_000_stationary_rows(test: str) -> None:
    for name, values in stationary(100_000, test).items():
        assert len(drifts(detector_of(test), values)) <= 1, name


@every_test
@pytest.mark.parametrize("seed", range(3))
def test_three_planted_drifts_are_found_within_2_000_rows(test: str, seed: int) -> None:
    rates, rows = (0.05, 0.25, 0.5, 0.8), 8_000
    stream = np.concatenate([errors(rows, rate, 10 * seed + i) for i, rate in enumerate(rates)])
    found = drifts(detector_of(test), stream)
    delays = [next(row - planted for row in found if row >= planted) for planted in (8_000, 16_000, 24_000)]
    assert max(delays) < 2_000
    assert len(found) <= 4


@pytest.mark.parametrize("test", ["adwin", "page_hinkley", "kswin"])
def test_features_drift_both_ways_and_a_loss_only_up(test: str) -> None:
    parts = [np.random.default_rng(i).normal(mean, 1.0, size=5_000) for i, mean in enumerate((0, -1, 0, 1))]
    values = np.concatenate(parts)
    starts = [5_000, 10_000, 15_000]
    assert [row // 5_000 * 5_000 for row in drifts(Detector(test, "both"), values)] == starts
    assert [row // 5_000 * 5_000 for row in drifts(Detector(test), values)] == starts[1:]
    # A metric is the negative of a loss, and comes as one value for an increment, not for a row.
    per_increment = -values.reshape(-1, 50).mean(1)
    assert len(drifts(Detector(test, "fall", block=1), per_increment)) == 2


def test_kswin_sees_a_change_of_shape_that_keeps_the_mean() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 500), rng.normal(0, 8, 200)])
    detector = Detector("kswin", "both", block=1, options={"window_size": 200, "stat_size": 100})
    assert drifts(detector, values)[0] >= 500


def test_one_column_of_many_is_enough_and_the_others_keep_still() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20_000, 8))
    values[12_000:, 5] += 1.0
    found = drifts(Detector("adwin", "both"), values)
    assert len(found) == 1
    assert 12_000 <= found[0] < 14_000


# -- state --


@every_test
def test_stopping_anywhere_changes_nothing(test: str) -> None:
    stream = np.concatenate([errors(3_000, 0.05), errors(3_000, 0.6)])
    whole = detector_of(test)
    expected = drifts(whole, stream)
    assert expected
    resumed, found = detector_of(test), []
    for start in range(0, len(stream), 701):
        found += [start + row for row in drifts(resumed, stream[start : start + 701])]
        text = json.dumps(resumed.state_dict(), allow_nan=False)
        resumed = detector_of(test)
        resumed.load_state_dict(json.loads(text))
    assert found == expected
    assert resumed.state_dict() == whole.state_dict()


def test_a_fresh_detector_has_a_state_too() -> None:
    detector = Detector()
    detector.load_state_dict(Detector().state_dict())
    assert drifts(detector, np.empty((0, 1))) == []
    assert drifts(detector, np.ones(5_000)) == []


def test_values_that_are_not_finite_are_left_out() -> None:
    stream = np.concatenate([errors(4_000, 0.1), errors(2_000, 0.6)])
    holes = np.repeat(stream, 2)
    holes[::2] = np.nan
    holes[100] = np.inf
    plain = drifts(Detector("adwin", block=32), stream)
    assert drifts(Detector("adwin", block=64), holes) == [2 * row + 1 for row in plain]
    detector = Detector()
    assert drifts(detector, np.full(1_001, np.nan)) == []
    json.dumps(detector.state_dict(), allow_nan=False)


# -- bad input --


def test_wrong_options_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"drift\.adwin: .*delta_"):
        Detector(options={"delta_": 0.1})


def test_wrong_values_are_named() -> None:
    with pytest.raises(ArgumentError, match="ddm counts errors, expected 0 or 1"):
        drifts(Detector("ddm", block=1), np.array([0.0, 0.37]))


def test_the_state_of_another_detector_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"drift.test: expected 'ddm', saved was 'adwin'"):
        Detector("ddm", block=32).load_state_dict(Detector("adwin").state_dict())


def test_without_river_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "river", None)
    with pytest.raises(ArgumentError, match=r"needs river, .* pip install 'incr\[drift\]'"):
        Detector()
