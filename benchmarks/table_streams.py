"""Streams of plain tables: those included in river and scikit-learn, and generated ones.

No stream needs a network. If the rows of a table have no order, the seed draws one. Generated rows are drawn by the
seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

__all__ = ["BLOCK", "STREAMS", "Table"]

BLOCK = 100
"""Rows that are predicted, then learned."""

Array = np.ndarray[Any, Any]


@dataclass
class Table:
    """Rows in their order.

    numeric: (N, F), NaN where a number is missing. categorical: columns of text. target: 0 and 1, class numbers, or
    numbers.
    """

    objective: str
    numeric: Array
    target: Array
    categorical: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.target)

    @property
    def classes(self) -> int:
        """How many classes there are; 0 for a regression."""
        return 0 if self.objective == "regression" else int(self.target.max()) + 1

    def columns(self) -> dict[str, Any]:
        """A table of Arrow as a newcomer has it: null where a number is missing."""
        numbers = {
            f"x{place}": [None if np.isnan(value) else float(value) for value in column]
            for place, column in enumerate(self.numeric.T)
        }
        return {**numbers, **self.categorical, "y": self.target.tolist()}


def of_river(name: str, objective: str, rows: int | None = None, **arguments: Any) -> Callable[[int], Table]:
    """A table that ships with river, in its order; numbers alone."""

    def made(seed: int) -> Table:
        from river import datasets

        return gathered(objective, islice(getattr(datasets, name)(**arguments), rows))

    return made


def gathered(objective: str, rows: Iterable[tuple[dict[str, Any], Any]], categorical: Iterable[str] = ()) -> Table:
    """Rows as river gives them, as a table."""
    found = list(rows)
    names = [name for name in found[0][0] if name not in set(categorical)]
    numeric = np.array([[float(x[name]) for name in names] for x, _ in found])
    labels: list[Any] = [y for _, y in found]
    target = np.array(labels, float) if objective == "regression" else np.unique(labels, return_inverse=True)[1]
    return Table(objective, numeric, target, {name: [f"c{x[name]}" for x, _ in found] for name in categorical})


def of_sklearn(name: str, objective: str) -> Callable[[int], Table]:
    """A table that ships with scikit-learn, in a seeded order."""

    def made(seed: int) -> Table:
        from sklearn import datasets

        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        order = np.random.default_rng(seed).permutation(len(y))
        return Table(objective, x[order], y[order].astype(float if objective == "regression" else int))

    return made


def concepts(kind: str, variants: str, rows: int, *, categorical: Iterable[str] = (), **arguments: Any) -> Any:
    """A generator of river whose rule changes abruptly: a quarter of the rows by each value of `variants`."""

    def made(seed: int) -> Table:
        from river.datasets import synth

        parts = [
            islice(getattr(synth, kind)(**{variants: value}, seed=seed * 10 + value, **arguments), rows // 4)
            for value in range(4)
        ]
        return gathered("binary", (row for part in parts for row in part), categorical)

    return made


def drifting(kind: str, objective: str, rows: int, **arguments: Any) -> Callable[[int], Table]:
    """A generator of river that drifts by itself."""

    def made(seed: int) -> Table:
        from river.datasets import synth

        return gathered(objective, islice(getattr(synth, kind)(seed=seed, **arguments), rows))

    return made


def classification(rows: int, twist: Callable[[Array, np.random.Generator], Array], **arguments: Any) -> Any:
    """Two classes in clusters, in numbers that `twist` makes harder to take."""

    def made(seed: int) -> Table:
        from sklearn.datasets import make_classification

        x, y = make_classification(rows, 12, n_informative=6, n_clusters_per_class=3, random_state=seed, **arguments)
        return Table("binary", twist(x, np.random.default_rng(seed)), y)

    return made


def plain(x: Array, draw: np.random.Generator) -> Array:
    """As they are."""
    return x


def with_holes(x: Array, draw: np.random.Generator) -> Array:
    """Half of the columns lack a number in four of ten rows."""
    holes: Array = np.less(draw.random(x.shape), 0.4)
    holes[:, ::2] = False
    return np.where(holes, np.nan, x)


def heavy(x: Array, draw: np.random.Generator) -> Array:
    """Log-normal in every column, in units of its own, with a wild number now and then."""
    wild = np.where(draw.random(x.shape) < 0.002, 1e4 * draw.random(x.shape), 1.0)
    return np.exp(1.5 * x) * wild * np.logspace(-3, 6, x.shape[1])


def heavy_regression(seed: int) -> Table:
    """A product of powers of log-normal numbers, and noise of Student's t with two degrees of freedom."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(6000, 8))
    y = np.exp(0.5 * x[:, 0] - 0.3 * x[:, 1]) + np.abs(x[:, 2]) * x[:, 3] + 0.3 * draw.standard_t(2, 6000)
    return Table("regression", np.exp(x), 100.0 * y)


STREAMS: dict[str, Callable[[int], Table]] = {
    "phishing": of_river("Phishing", "binary"),
    "bananas": of_river("Bananas", "binary"),
    "breast cancer": of_sklearn("breast_cancer", "binary"),
    "shuttle, anomalies": of_river("Shuttle", "binary", 8000),
    "SEA, abrupt": concepts("SEA", "variant", 8000, noise=0.1),
    "Agrawal, abrupt": concepts(
        "Agrawal", "classification_function", 8000, categorical=("elevel", "car", "zipcode"), perturbation=0.1
    ),
    "hyperplane": drifting(
        "Hyperplane", "binary", 8000, n_features=10, n_drift_features=5, mag_change=0.002, noise_percentage=0.05
    ),
    "rare, 2%": classification(8000, plain, weights=[0.98], flip_y=0.0),
    "missing, 40%": classification(6000, with_holes),
    "heavy tails": classification(6000, heavy),
    "digits": of_sklearn("digits", "multiclass"),
    "segments": of_river("ImageSegments", "multiclass"),
    "LED, drift": drifting("LEDDrift", "multiclass", 6000, n_drift_features=3, noise_percentage=0.1),
    "diabetes": of_sklearn("diabetes", "regression"),
    "approval": of_river("TrumpApproval", "regression"),
    "Friedman, abrupt": drifting(
        "FriedmanDrift", "regression", 8000, drift_type="gra", position=(3000, 6000), transition_window=500
    ),
    "heavy regression": heavy_regression,
}
"""Seed -> table, by name."""
