"""Incremental classifier."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from incr_core.errors import ArgumentError
from incr_core.estimators._estimator import Incremental, Values
from incr_core.objectives import Binary, Multiclass, Objective

__all__ = ["IncrementalClassifier"]


class IncrementalClassifier(ClassifierMixin, Incremental):  # type: ignore[misc]  # sklearn has no types
    """A classifier over numeric columns that learns incrementally and retains earlier knowledge by strategies.

    `fit` starts from scratch. `partial_fit` learns one more increment. Missing values (NaN) are allowed.

    Args:
        hidden: Widths of the hidden layers; none gives a linear model.
        strategies: Names ("replay"), names with arguments ({"name": "replay", "capacity": 500}), or `Strategy` objects,
            of which each fit takes a copy.
        optimizer: A name, or all arguments, {"name": "sgd", "lr": 0.1}.
        lr: Learning rate, if the optimizer is given by name.
        batch_size: Rows of a step.
        passes: Passes over the rows in `partial_fit`.
        max_iter: Passes over the rows in `fit`.
        random_state: A seed, a `RandomState`, or None for a random seed.

    Attributes:
        classes_: The labels, sorted.
        learner_: The underlying `Learner`.
        n_rows_seen_: Rows learned since the last fit.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> model = IncrementalClassifier(hidden=[16], strategies=["replay"], passes=5, random_state=0)
        >>> for increment in range(20):
        ...     X = rng.normal(size=(100, 2))
        ...     model = model.partial_fit(X, X[:, 0] > X[:, 1], classes=[False, True])
        >>> X = rng.normal(size=(1000, 2))
        >>> bool(model.score(X, X[:, 0] > X[:, 1]) > 0.95)
        True
    """

    classes_: Values

    def fit(self, X: Any, y: Any) -> Self:
        """Learn these rows, (n, features) and labels (n,), from scratch."""
        inputs, labels = self._inputs_of(X, y, reset=True)
        check_classification_targets(labels)
        self.classes_ = np.unique(labels)
        return self._fit(inputs, self._targets(labels))

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Learn one more increment.

        Args:
            classes: All labels that will ever occur. The first call must name them.
        """
        new = self._is_new()
        inputs, labels = self._inputs_of(X, y, reset=new)
        check_classification_targets(labels)
        if new:
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            self.classes_ = np.unique(classes)
            self._begin()
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(
                f"classes={classes!r}: expected those of the first call to partial_fit, {self.classes_!r}; "
                "call fit to learn others"
            )
        self._learn(inputs, self._targets(labels), self.passes)
        return self

    def predict_proba(self, X: Any) -> Values:
        """Return the probability of each class, (n, classes), in the order of `classes_`."""
        check_is_fitted(self, "learner_")
        answers = self._answers(X).double().numpy()
        if len(self.classes_) == 1:
            return np.ones((len(answers), 1))
        if len(self.classes_) == 2:
            return np.stack([1.0 - answers, answers], axis=1)
        told: Values = answers / answers.sum(axis=1, keepdims=True)
        return told

    def predict(self, X: Any) -> Values:
        """Return the most probable class of each row, (n,)."""
        places = self.predict_proba(X).argmax(axis=1)
        told: Values = self.classes_[places]
        return told

    def _targets(self, labels: Values) -> torch.Tensor:
        places = np.searchsorted(self.classes_, labels).clip(max=len(self.classes_) - 1)
        if (unknown := np.unique(labels[self.classes_[places] != labels])).size:
            raise ArgumentError(
                f"y: expected the labels {self.classes_.tolist()}, got {unknown[:5].tolist()} too; "
                "name all of them in the first call to partial_fit"
            )
        return torch.from_numpy(places).double() if len(self.classes_) <= 2 else torch.from_numpy(places).long()

    def _objective(self) -> Objective:
        return Binary() if len(self.classes_) <= 2 else Multiclass(len(self.classes_))

    def _outputs(self) -> int:
        return 1 if len(self.classes_) <= 2 else len(self.classes_)
