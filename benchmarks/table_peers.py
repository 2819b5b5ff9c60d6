"""Peers for plain tables: linear models, trees and forests of river, scikit-learn, and a hand-written MLP.

Each sees blocks of rows in order: `predict`, then `learn`. Numbers are standardised by those learned so far, and a
missing one is their mean. Categories are one column for each value. No peer is tuned: these are the defaults of their
libraries, and for the hand-written MLP those of the built-in one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.table_streams import Table

__all__ = ["PEERS", "Peer"]

Array = np.ndarray[Any, Any]


class Peer(Protocol):
    """Learns blocks of rows, by their places in the table."""

    def predict(self, rows: slice) -> Array:
        """Probabilities of class 1 (n,), class probabilities (n, C), or values (n,)."""

    def learn(self, rows: slice) -> None:
        """Learn them."""


class Standardised:
    """Rows of a table as numbers: standardised by what was learned, one column for each value of a category."""

    def __init__(self, table: Table) -> None:
        from sklearn.preprocessing import StandardScaler

        self.table, self.scaler, self.seen = table, StandardScaler(), False
        columns = [np.asarray(values) for values in table.categorical.values()]
        self.dummies = [np.stack([column == value for value in np.unique(column)], 1) for column in columns]

    def see(self, rows: slice) -> None:
        """These are about to be learned."""
        self.scaler.partial_fit(self.table.numeric[rows])
        self.seen = True

    def __getitem__(self, rows: slice) -> Array:
        numbers = self.table.numeric[rows]
        if self.seen:
            numbers = self.scaler.transform(numbers)
        return np.hstack([np.nan_to_num(numbers), *(dummies[rows] for dummies in self.dummies)]).astype(np.float32)


class OfSklearn:
    """An estimator with `partial_fit`; a regression's target is standardised by what was learned."""

    def __init__(self, table: Table, estimator: Any) -> None:
        self.table, self.rows, self.estimator = table, Standardised(table), estimator
        self.targets: Array = np.zeros(0)

    @property
    def _scale(self) -> tuple[float, float]:
        return float(self.targets.mean()), max(float(self.targets.std()), 1e-9)

    def predict(self, rows: slice) -> Array:
        if not self.table.classes:
            mean, spread = self._scale
            values: Array = mean + spread * self.estimator.predict(self.rows[rows])
            return values
        p: Array = self.estimator.predict_proba(self.rows[rows])
        return p[:, 1] if self.table.classes == 2 else p

    def learn(self, rows: slice) -> None:
        self.rows.see(rows)
        y = self.table.target[rows]
        if self.table.classes:
            self.estimator.partial_fit(self.rows[rows], y, classes=np.arange(self.table.classes))
        else:
            self.targets = np.concatenate([self.targets, y])
            mean, spread = self._scale
            self.estimator.partial_fit(self.rows[rows], (y - mean) / spread)


def sgd(table: Table, seed: int) -> Peer:
    """scikit-learn's linear model by SGD."""
    from sklearn.linear_model import SGDClassifier, SGDRegressor

    kind = SGDClassifier(loss="log_loss", random_state=seed) if table.classes else SGDRegressor(random_state=seed)
    return OfSklearn(table, kind)


def mlp(table: Table, seed: int) -> Peer:
    """scikit-learn's MLP."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    return OfSklearn(table, (MLPClassifier if table.classes else MLPRegressor)(random_state=seed))


class ByHand:
    """The loop that one writes: our built-in MLP's layers, Adam at its rate, batches of 32, so many passes a block."""

    def __init__(self, table: Table, seed: int, passes: int) -> None:
        torch.manual_seed(seed)
        self.table, self.rows, self.passes = table, Standardised(table), passes
        width, outputs = self.rows[slice(0, 1)].shape[1], table.classes if table.classes > 2 else 1
        self.model = nn.Sequential(
            nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, outputs)
        )
        self.descent = torch.optim.Adam(self.model.parameters(), lr=0.003)
        self.order, self.targets = torch.Generator().manual_seed(seed), OfSklearn(table, None)

    @torch.no_grad()
    def predict(self, rows: slice) -> Array:
        output = self.model(torch.from_numpy(self.rows[rows]))
        if self.table.classes > 2:
            return np.asarray(output.softmax(1))
        if self.table.classes:
            return np.asarray(output.sigmoid().flatten())
        mean, spread = self.targets._scale
        return np.asarray(mean + spread * output.flatten())

    def learn(self, rows: slice) -> None:
        self.rows.see(rows)
        x, y = torch.from_numpy(self.rows[rows]), torch.from_numpy(self.table.target[rows])
        if not self.table.classes:
            self.targets.targets = np.concatenate([self.targets.targets, self.table.target[rows]])
            mean, spread = self.targets._scale
            y = (y - mean) / spread
        for _ in range(self.passes):
            for part in torch.split(torch.randperm(len(x), generator=self.order), 32):
                loss = self._loss(self.model(x[part]), y[part])
                self.descent.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self.descent.step()

    def _loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.table.classes > 2:
            return F.cross_entropy(output, y)
        if self.table.classes:
            return F.binary_cross_entropy_with_logits(output.flatten(), y.float())
        return F.mse_loss(output.flatten(), y.float())


class OfRiver:
    """A model of river, a row at a time."""

    def __init__(self, table: Table, model: Any) -> None:
        self.table, self.model = table, model

    def _row(self, place: int) -> dict[str, Any]:
        numbers = {f"x{column}": value for column, value in enumerate(self.table.numeric[place].tolist())}
        words = {name: values[place] for name, values in self.table.categorical.items()}
        return {name: value for name, value in numbers.items() if value == value} | words

    def predict(self, rows: slice) -> Array:
        places, classes = range(len(self.table))[rows], self.table.classes
        if not classes:
            return np.array([self.model.predict_one(self._row(place)) for place in places])
        found = [self.model.predict_proba_one(self._row(place)) for place in places]
        p = np.array([[each.get(label, 0.0) for label in range(classes)] for each in found])
        return p[:, 1] if classes == 2 else p

    def learn(self, rows: slice) -> None:
        for place in range(len(self.table))[rows]:
            y = self.table.target[place].item()
            self.model.learn_one(self._row(place), y)


def river_linear(table: Table, seed: int) -> Peer:
    """river's linear model of standardised numbers and one-hot categories."""
    from river import compose, linear_model, preprocessing

    kind = (
        linear_model.LinearRegression()
        if not table.classes
        else linear_model.LogisticRegression()
        if table.classes == 2
        else linear_model.SoftmaxRegression()
    )
    numbers = compose.SelectType(float) | preprocessing.StandardScaler()
    words = compose.SelectType(str) | preprocessing.OneHotEncoder()
    return OfRiver(table, ((numbers + words) if table.categorical else numbers) | kind)


def river_tree(table: Table, seed: int) -> Peer:
    """river's Hoeffding adaptive tree."""
    from river import tree

    kind = tree.HoeffdingAdaptiveTreeClassifier if table.classes else tree.HoeffdingAdaptiveTreeRegressor
    return OfRiver(table, kind(seed=seed))


def river_forest(table: Table, seed: int) -> Peer:
    """river's adaptive random forest, of ten trees."""
    from river import forest

    return OfRiver(table, (forest.ARFClassifier if table.classes else forest.ARFRegressor)(seed=seed))


warnings.simplefilter("ignore", UserWarning)

PEERS: dict[str, Callable[[Table, int], Peer]] = {
    "river linear": river_linear,
    "river HAT": river_tree,
    "river ARF": river_forest,
    "sklearn SGD": sgd,
    "sklearn MLP": mlp,
    "MLP by hand": lambda table, seed: ByHand(table, seed, 1),
    "MLP by hand, 5 passes": lambda table, seed: ByHand(table, seed, 5),
}
"""(table, seed) -> who learns it, by name."""
