"""The update rule with the interface of scikit-learn, and of river for a row at a time; extra `sklearn`."""

from __future__ import annotations

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        "incr_core.estimators needs scikit-learn, which is not installed; pip install 'incr[sklearn]'"
    ) from error

from incr_core.estimators._classifier import IncrementalClassifier
from incr_core.estimators._one_row import OneRowClassifier, OneRowRegressor
from incr_core.estimators._regressor import IncrementalRegressor

__all__ = ["IncrementalClassifier", "IncrementalRegressor", "OneRowClassifier", "OneRowRegressor"]
