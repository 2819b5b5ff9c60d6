"""Interface of river for one row at a time: features by name, `learn_one` and `predict_one`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Self

import numpy as np

from incr_core.estimators._classifier import IncrementalClassifier
from incr_core.estimators._regressor import IncrementalRegressor

__all__ = ["OneRowClassifier", "OneRowRegressor"]

Row = Mapping[Hashable, float]


class _Columns:
    """Names of the columns, from the first row. A column that a later row lacks is missing (NaN)."""

    def __init__(self) -> None:
        self.names: list[Hashable] = []

    def of(self, row: Row) -> np.ndarray[Any, np.dtype[np.float64]]:
        self.names = self.names or list(row)
        return np.array([[row.get(name, np.nan) for name in self.names]], dtype=np.float64)


class OneRowClassifier:
    """An `IncrementalClassifier` for one row at a time: `learn_one`, `predict_proba_one`, `predict_one` of river.

    Args:
        model: The classifier.
        classes: All labels that will ever occur.

    Example:
        >>> model = OneRowClassifier(IncrementalClassifier(hidden=[], random_state=0), classes=["no", "yes"])
        >>> for step in range(400):
        ...     model = model.learn_one({"x": step % 2, "z": 1.0}, ["no", "yes"][step % 2])
        >>> model.predict_one({"x": 1.0, "z": 1.0}), sorted(model.predict_proba_one({"x": 0.0}))
        ('yes', ['no', 'yes'])
    """

    def __init__(self, model: IncrementalClassifier, classes: list[Any]) -> None:
        self.model, self.classes = model, classes
        self._columns = _Columns()

    def learn_one(self, x: Row, y: Any) -> Self:
        """Learn one row."""
        self.model.partial_fit(self._columns.of(x), [y], classes=self.classes)
        return self

    def predict_proba_one(self, x: Row) -> dict[Any, float]:
        """Return class -> probability; equal probabilities before any row was learned."""
        if not self._columns.names:
            return dict.fromkeys(self.classes, 1.0 / len(self.classes))
        told = self.model.predict_proba(self._columns.of(x))[0]
        return dict(zip(self.model.classes_.tolist(), told.tolist(), strict=True))

    def predict_one(self, x: Row) -> Any:
        """Return the most probable class."""
        told = self.predict_proba_one(x)
        return max(told, key=lambda name: told[name])


class OneRowRegressor:
    """An `IncrementalRegressor` for one row at a time: `learn_one` and `predict_one` of river.

    Example:
        >>> model = OneRowRegressor(IncrementalRegressor(hidden=[], random_state=0))
        >>> model.predict_one({"x": 1.0})
        0.0
        >>> for step in range(400):
        ...     model = model.learn_one({"x": step % 10}, 5.0 * (step % 10))
        >>> 30 < model.predict_one({"x": 9.0}) < 60
        True
    """

    def __init__(self, model: IncrementalRegressor) -> None:
        self.model = model
        self._columns = _Columns()

    def learn_one(self, x: Row, y: float) -> Self:
        """Learn one row."""
        self.model.partial_fit(self._columns.of(x), [y])
        return self

    def predict_one(self, x: Row) -> float:
        """Return the predicted value; 0 before any row was learned."""
        return float(self.model.predict(self._columns.of(x))[0]) if self._columns.names else 0.0
