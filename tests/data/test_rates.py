"""Rates: the closed form, the open interval, and sums that do not depend on where they begin."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incr_core.data.rates import History, Questions, Rate
from incr_core.data.times import SECOND
from incr_core.errors import ArgumentError

rows = st.lists(
    st.tuples(
        st.sampled_from(["AA", "UA", None]),
        st.integers(0, 20),
        st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 3)) | st.none(),
    ),
    max_size=30,
)


def columns(past: list[Any]) -> tuple[pa.Table, Any, Any]:
    table = pa.table({"carrier": pa.array([row[0] for row in past], pa.string())})
    known = np.array([row[1] for row in past], dtype=np.int64) * SECOND
    return table, known, np.array([np.nan if row[2] is None else row[2] for row in past], dtype=np.float64)


@settings(deadline=None)
@given(rows, rows, st.sampled_from([1, 5, None]), st.sampled_from([0.25, None]), st.booleans())
def test_a_rate_is_what_its_formula_says(past: Any, now: Any, window: Any, prior: Any, by_carrier: bool) -> None:
    rate = Rate(["carrier"] if by_carrier else [], window, prior, weight=3.0)
    table, known, outcomes = columns(past)
    asked, times, _ = columns(now)
    history = History([rate]).plus(Questions.answered([rate], table, outcomes, known, known))
    found = history.features(Questions.of([rate], asked), times)
    for (carrier, time, _), (value, count) in zip(now, found.tolist(), strict=True):
        start = -math.inf if window is None else time - window
        inside = [row for row in past if start <= row[1] < time and row[2] is not None]
        mine = [row[2] for row in inside if row[0] == carrier or not by_carrier]
        base = sum(row[2] for row in inside) / max(len(inside), 1) if prior is None else prior
        assert value == pytest.approx((sum(mine) + 3 * base) / (len(mine) + 3), rel=1e-5, abs=1e-3)
        assert count == pytest.approx(math.log1p(len(mine)))


@settings(deadline=None)
@given(rows, rows, rows, st.integers(0, 20))
def test_forgetting_what_nobody_can_ask_for_changes_no_bit(past: Any, more: Any, now: Any, time: int) -> None:
    rates = [Rate(["carrier"], 5), Rate([], None, 0.5)]
    history = History(rates)
    trimmed = history
    for table, known, outcomes in map(columns, (past, more)):
        rows = Questions.answered(rates, table, outcomes, known, known)
        history = history.plus(rows)
        trimmed = trimmed.plus(rows).since(time * SECOND)
    asked, times, _ = columns(now)
    later = times >= time * SECOND
    questions = Questions.of(rates, asked).take(later)
    expected = history.features(questions, times[later])
    assert np.array_equal(trimmed.features(questions, times[later]), expected)
    saved = History.from_table(rates, history.since(time * SECOND).table())
    assert np.array_equal(saved.features(questions, times[later]), expected)


@settings(deadline=None)
@given(st.lists(st.tuples(rows, st.integers(0, 20)), max_size=12), rows)
def test_a_history_that_grew_has_the_bits_of_one_that_is_sorted_at_once(steps: Any, now: Any) -> None:
    rates = [Rate(["carrier"], 5, None), Rate(["carrier"], 2, 0.5), Rate([], None, None)]
    history, reached = History(rates), 0
    for past, time in steps:
        table, known, outcomes = columns(past)
        reached = max(reached, time)
        history = history.plus(Questions.answered(rates, table, outcomes, known, known)).since(reached * SECOND)
    asked, times, _ = columns(now)
    questions, times = Questions.of(rates, asked), np.maximum(times, reached * SECOND)
    at_once = History.from_table(rates, history.table())
    assert history.features(questions, times).tobytes() == at_once.features(questions, times).tobytes()


def test_a_history_sorts_all_outcomes_rarely() -> None:
    rates, history, sorts = [Rate(["carrier"], 400)], History([Rate(["carrier"], 400)]), 0
    for tick in range(400):
        table, known, outcomes = columns([("AA", tick, 1.0)] * 5)
        before = history._sorted
        history = history.since(tick * SECOND // 2).plus(Questions.answered(rates, table, outcomes, known, known))
        sorts += history._sorted is not before
    assert sorts < 30  # with each row sorted a few times, not 400


def test_a_label_known_at_the_moment_of_the_prediction_does_not_enter() -> None:
    rate = Rate([], 10, prior=0.0, weight=1.0)
    known = np.array([0, 10]) * SECOND
    questions = Questions.answered([rate], pa.table({"x": [0, 0]}), np.array([1.0, 1.0]), known, known)
    history = History([rate]).plus(questions)
    counts = history.features(questions, np.array([10, 11]) * SECOND)[:, 1]
    assert counts == pytest.approx([math.log(2), math.log(2)])  # [0, 10) holds the first, [1, 11) the second


def test_two_columns_make_one_key_and_their_order_matters() -> None:
    rate = Rate(["a", "b"], None)
    keys = rate.keys(pa.table({"a": ["x", "y", "x"], "b": ["y", "x", "y"]}), 3)
    assert keys[0] == keys[2] != keys[1]


def test_what_a_rate_refuses() -> None:
    with pytest.raises(ArgumentError, match=r"features.rate.window: expected a duration .*, got 'soon'"):
        Rate([], "soon")
    with pytest.raises(ArgumentError, match=r"features.rate.window: expected a duration above 0, got -1"):
        Rate([], -1)
    with pytest.raises(ArgumentError, match=r"features.rate.weight: expected a number above 0, got 0"):
        Rate([], 1, weight=0)
    zero = np.zeros(1, dtype=np.int64)
    with pytest.raises(ArgumentError, match=r"features.rate.outcome: expected a column of numbers, got x of string"):
        Questions.answered([Rate([], 1, outcome="x")], pa.table({"x": ["a"]}), np.zeros(1), zero, zero)
    with pytest.raises(
        ArgumentError, match=r'features.rate.known_at: expected an outcome too, got known_at = "x" alone'
    ):
        Rate([], 1, known_at="x")


def test_an_outcome_with_a_time_of_its_own_counts_from_then_and_never_before_its_row() -> None:
    rate = Rate([], 100, prior=0.0, weight=1.0, outcome="gain", known_at="seen")
    table = pa.table({"gain": [1.0, 2.0, 4.0, None], "seen": [30, None, 5, 20]})
    label, arrival = np.array([90, 90, 90, 90]) * SECOND, np.array([10, 10, 10, 10]) * SECOND
    history = History([rate]).plus(Questions.answered([rate], table, np.zeros(4), label, arrival))
    found = history.features(Questions.of([rate], table), np.array([10, 11, 31, 99]) * SECOND)
    assert np.expm1(found[:, 1]) == pytest.approx([0, 1, 2, 2])
    assert found[:, 0] == pytest.approx([0, 4 / 2, 5 / 3, 5 / 3])
