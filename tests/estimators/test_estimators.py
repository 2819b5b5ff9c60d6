"""Estimators of scikit-learn's kind: its own checks, and the same bits as the learner behind them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.estimator_checks import check_estimator

from incr_core.batch import Batch
from incr_core.errors import ArgumentError
from incr_core.estimators import IncrementalClassifier, IncrementalRegressor, OneRowClassifier
from incr_core.learner import Learner
from incr_core.models import TableMLP, TableShape
from incr_core.objectives import Multiclass
from incr_core.strategies import EWC, Replay

CLASSES = np.array(["high", "low", "mid"])


def rows(seed: int = 0, count: int = 60) -> tuple[Any, Any]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(count, 3))
    return x, CLASSES[(x[:, 0] > 0).astype(int) + (x[:, 1] > 0.5)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [IncrementalClassifier, IncrementalRegressor])
def test_scikit_learn_finds_nothing_wrong(kind: type[Any]) -> None:
    told = check_estimator(kind(hidden=[16], max_iter=40), on_skip=None)
    assert [one["check_name"] for one in told if one["status"] != "passed"] == ["check_array_api_input"]
    assert len(told) > 50


@pytest.mark.filterwarnings("error")
def test_an_increment_is_learned_by_the_learner_and_nothing_else() -> None:
    strategies: list[Any] = [{"name": "replay", "capacity": 20}, EWC(strength=1.0)]
    model = IncrementalClassifier(hidden=[5], strategies=strategies, passes=2, random_state=3)
    learner: Learner | None = None
    for seed in range(3):
        x, y = rows(seed)
        model.partial_fit(x, y, classes=CLASSES)
        if learner is None:
            drawn = int(np.random.RandomState(3).randint(2**31 - 1))
            torch.manual_seed(drawn)
            network = TableMLP(TableShape(3, 0, 0, 3), [5]).double()
            kept = [Replay(capacity=20), EWC(strength=1.0)]
            adam = {"name": "adam", "lr": 0.003}
            learner = Learner(network, Multiclass(3), adam, kept, epochs=2, seed=drawn)
        batch = Batch(
            torch.from_numpy(x),
            torch.from_numpy(np.searchsorted(CLASSES, y)),
            row_ids=torch.arange(seed * 60, seed * 60 + 60),
        )
        learner.absorb(learner.observe(batch))
        learner.learn(batch)
    assert learner is not None
    mine, its = learner.weights(), model.learner_.weights()
    assert all(torch.equal(mine[name], its[name]) for name in mine)
    assert (model.n_rows_seen_, set(model.predict(rows(9)[0])) <= set(CLASSES)) == (180, True)
    assert (strategies[1], model.get_params()["strategies"]) == (strategies[1], strategies)


@pytest.mark.parametrize("kind", [IncrementalClassifier, IncrementalRegressor])
def test_what_was_pickled_goes_on_to_the_bit(kind: type[Any]) -> None:
    x, y = rows()
    y = y if kind is IncrementalClassifier else x[:, 0] * 7.0
    more = {"classes": CLASSES} if kind is IncrementalClassifier else {}
    one = kind(hidden=[4], strategies=["replay"], random_state=0).partial_fit(x, y, **more)
    other = pickle.loads(pickle.dumps(one))
    for _ in range(2):
        one.partial_fit(x, y)
        other.partial_fit(x, y)
    assert np.array_equal(one.predict(x), other.predict(x))
    assert np.array_equal(
        one.learner_.weights()["model.layers.0.weight"], other.learner_.weights()["model.layers.0.weight"]
    )


def test_what_is_wrong_is_told() -> None:
    x, y = rows()
    model = IncrementalClassifier(hidden=[4], random_state=0)
    with pytest.raises(ValueError, match=r"classes must be passed on the first call to partial_fit\."):
        model.partial_fit(x, y)
    with pytest.raises(ArgumentError, match=r"y: expected the labels \['high', 'low'\], got \['mid'\] too; name all"):
        model.partial_fit(x, y, classes=["low", "high"])
    model.partial_fit(x[:10], np.where(y[:10] == "mid", "low", y[:10]))
    with pytest.raises(ValueError, match="expected those of the first call to partial_fit"):
        model.partial_fit(x, y, classes=CLASSES)
    with pytest.raises(
        ArgumentError, match=r"strategies\[0\]: expected a strategy, got 'reply'; did you mean 'replay'"
    ):
        IncrementalClassifier(strategies=["reply"]).fit(x, y)
    with pytest.raises(ArgumentError, match=r"strategies\[0\]: expected a name, got {'capacity': 3}"):
        IncrementalClassifier(strategies=[{"capacity": 3}]).fit(x, y)
    with pytest.raises(ArgumentError, match="expected at least 1, got 0"):
        IncrementalClassifier(max_iter=0).fit(x, y)


def test_rows_one_by_one_are_increments_of_one_row_and_may_lack_a_feature() -> None:
    x, y = rows(count=20)
    by_row = OneRowClassifier(IncrementalClassifier(hidden=[4], random_state=0), list(CLASSES))
    assert by_row.predict_proba_one({"a": 1.0}) == dict.fromkeys(CLASSES, 1 / 3)
    at_once = IncrementalClassifier(hidden=[4], random_state=0)
    for values, label in zip(x, y, strict=True):
        by_row.learn_one(dict(zip("abc", values, strict=True)), label)
        at_once.partial_fit(values[None], [label], classes=CLASSES)
    told = by_row.predict_proba_one({"a": x[0, 0], "c": x[0, 2], "unknown": 1.0})
    expected = at_once.predict_proba([[x[0, 0], np.nan, x[0, 2]]])[0]
    assert [told[name] for name in at_once.classes_] == expected.tolist()
