"""Continual-learning measures against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from incr_core.metrics import _continual as c

TASKS = 5


def test_a_learner_that_forgets_nothing() -> None:
    kept = np.tril(np.full((TASKS, TASKS), 0.9))
    assert c.average_accuracy(kept) == pytest.approx(0.9)
    assert c.anytime_accuracy(kept) == pytest.approx(0.9)
    assert c.forgetting(kept) == c.backward_transfer(kept) == 0.0
    assert c.forward_transfer(kept, np.zeros(TASKS)) == 0.0


def test_a_learner_that_keeps_only_the_last_task() -> None:
    only_last = np.eye(TASKS)
    assert c.average_accuracy(only_last) == 1 / TASKS
    assert c.anytime_accuracy(only_last) == pytest.approx(np.mean([1 / t for t in range(1, TASKS + 1)]))
    assert c.forgetting(only_last) == 1.0
    assert c.backward_transfer(only_last) == -1.0
    assert c.forward_transfer(only_last, np.full(TASKS, 0.1)) == pytest.approx(-0.1)


def test_linear_decay() -> None:
    t, i = np.indices((TASKS, TASKS))
    decay = np.where(t >= i, 1.0 - 0.1 * (t - i), 0.0)
    assert c.forgetting(decay) == pytest.approx(0.1 * np.mean([1, 2, 3, 4]))
    assert c.backward_transfer(decay) == pytest.approx(-c.forgetting(decay))


def test_forgetting_is_from_the_best_and_backward_transfer_from_the_first() -> None:
    recovered = [[0.5, 0.0, 0.0], [0.9, 0.7, 0.0], [0.6, 0.7, 0.8]]
    assert c.forgetting(recovered) == pytest.approx((0.3 + 0.0) / 2)
    assert c.backward_transfer(recovered) == pytest.approx((0.1 + 0.0) / 2)


def test_forward_transfer_reads_the_entry_just_before_the_task() -> None:
    r = np.full((3, 3), math.nan)  # nothing else may matter
    r[0, 1], r[1, 2] = 0.6, 0.8
    assert c.forward_transfer(r, [math.nan, 0.5, 0.5]) == pytest.approx(0.2)


@pytest.mark.parametrize("measure", [c.forgetting, c.backward_transfer])
def test_one_task_has_nothing_to_forget(measure: Callable[[object], float]) -> None:
    assert math.isnan(measure([[0.9]]))
    assert math.isnan(measure([]))


def test_undefined_is_nan_without_a_warning() -> None:
    assert math.isnan(c.average_accuracy([]))
    assert math.isnan(c.anytime_accuracy([]))
    assert math.isnan(c.forward_transfer([[0.9]], [0.1]))
    assert c.average_accuracy([[0.9]]) == c.anytime_accuracy([[0.9]]) == 0.9
    assert math.isnan(c.average_accuracy([[0.9, 0.1], [math.nan, 0.1]]))


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"expected .* \(T, T\), got shape \(1, 2\)"):
        c.average_accuracy([[0.1, 0.2]])
    with pytest.raises(ValueError, match=r"each of 2 tasks, got shape \(1,\)"):
        c.forward_transfer(np.eye(2), [0.1])
