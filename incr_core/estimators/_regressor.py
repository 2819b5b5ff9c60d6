"""Incremental regressor."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import RegressorMixin

from incr_core.estimators._estimator import Incremental, Values
from incr_core.objectives import Objective, Regression

__all__ = ["IncrementalRegressor"]


class IncrementalRegressor(RegressorMixin, Incremental):  # type: ignore[misc]  # sklearn has no types
    """A regressor over numeric columns that learns incrementally. Its parameters are those of `IncrementalClassifier`.

    Targets are standardised by running statistics, so their unit does not matter.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> model = IncrementalRegressor(hidden=[16], passes=10, random_state=0)
        >>> for increment in range(20):
        ...     X = rng.normal(size=(100, 2))
        ...     model = model.partial_fit(X, 300.0 * X[:, 0] + 1000.0)
        >>> X = rng.normal(size=(1000, 2))
        >>> bool(model.score(X, 300.0 * X[:, 0] + 1000.0) > 0.95)
        True
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Learn these rows, (n, features) and values (n,), from scratch."""
        inputs, values = self._inputs_of(X, y, reset=True)
        return self._fit(inputs, _targets(values))

    def partial_fit(self, X: Any, y: Any) -> Self:
        """Learn one more increment."""
        new = self._is_new()
        inputs, values = self._inputs_of(X, y, reset=new)
        if new:
            self._begin()
        self._learn(inputs, _targets(values), self.passes)
        return self

    def predict(self, X: Any) -> Values:
        """Return a value for each row, (n,)."""
        told: Values = self._answers(X).double().numpy()
        return told

    def _objective(self) -> Objective:
        return Regression()

    def _outputs(self) -> int:
        return 1


def _targets(values: Values) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))
