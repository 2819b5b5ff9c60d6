"""The standings of the clients of a run, the worst first, from the table `clients`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from incr_core.report._course import Floats, floats, rolling

__all__ = ["ERRORS", "SPANS", "Standing", "standings"]

ERRORS = ("loss", "log_loss", "mae", "perplexity", "rmse")
"""Metrics of which less is better."""

SPANS = 10
"""A recent value covers 1 / this number of the client's increments. Over fewer increments it is mostly noise."""


@dataclass
class Standing:
    """One client.

    rows_learned, rows_scored: so far. metric, value: the run's main metric, over all rows of the client scored so far;
    NaN before the first. forgetting: distance of its recent value below its best one, or above it for an error.
    weight: its share in the mean, over all rounds. norm, drift: means over increments of the values in `Contribution`.
    participation: share of the increments with rows in which it learned. failures: number of answers that were missing
    or left out. failure: the reason of the last one. bytes_up, bytes_down: of the tensors that it sent and received.
    """

    client: str
    rows_learned: int
    rows_scored: int
    metric: str
    value: float
    forgetting: float
    weight: float
    norm: float
    drift: float
    participation: float
    failures: int
    failure: str
    bytes_up: int
    bytes_down: int
    increments: Floats = field(repr=False)
    recent: Floats = field(repr=False)

    def document(self) -> dict[str, Any]:
        """The standing as JSON values, without the course, with None for unknown values."""
        told = {key: value for key, value in asdict(self).items() if key not in ("increments", "recent")}
        return {key: None if isinstance(one, float) and math.isnan(one) else one for key, one in told.items()}


def standings(table: pa.Table) -> list[Standing]:
    """The clients in a table of clients, the worst by the main metric first; those that have no value come last.

    >>> rows = [{"increment": number, "client": name, "rows_labelled": 9, "rows_scored": 9, "total.auc": auc,
    ...          "metric.auc": auc, "offered": 9, "rounds": 1, "of_rounds": 1, "weight": 0.5, "norm": 1.0, "drift": 0.2,
    ...          "failures": 0, "failure": ""}
    ...         for number in (0, 1) for name, auc in (("a", 0.8), ("b", 0.7 - number / 10))]
    >>> [(one.client, one.value, round(one.forgetting, 3)) for one in standings(pa.Table.from_pylist(rows))]
    [('b', 0.6, 0.1), ('a', 0.8, 0.0)]
    """
    if not table.num_rows:
        return []
    metric = next(name.removeprefix("total.") for name in table.column_names if name.startswith("total."))
    frame = {name: floats(table, name) for name in table.column_names if name not in ("client", "name", "failure")}
    names = np.array(table["client"].to_pylist(), dtype=object)
    failures = np.array(table["failure"].to_pylist(), dtype=object)
    rounds = _rounds(frame["increment"], frame["of_rounds"])
    order = np.argsort(names, kind="stable")
    starts = np.flatnonzero(np.r_[True, names[order][1:] != names[order][:-1]])
    found = []
    for mine in np.split(order, starts[1:]):
        of = {name: values[mine] for name, values in frame.items()}
        totals = of[f"total.{metric}"][np.isfinite(of[f"total.{metric}"])]
        recent = rolling(of[f"metric.{metric}"], of["rows_scored"], max(1, round(len(mine) / SPANS)))
        offered = of["offered"] > 0
        told = [why for why in failures[mine] if why]
        found.append(
            Standing(
                client=str(names[mine[0]]),
                rows_learned=int(of["rows_labelled"].sum()),
                rows_scored=int(of["rows_scored"].sum()),
                metric=metric,
                value=float(totals[-1]) if len(totals) else math.nan,
                forgetting=_forgetting(recent, metric),
                weight=float((of["weight"] * of["of_rounds"]).sum()) / rounds if rounds else math.nan,
                norm=_mean(of["norm"]),
                drift=_mean(of["drift"]),
                participation=float((of["rounds"] > 0)[offered].mean()) if offered.any() else math.nan,
                failures=int(of["failures"].sum()),
                failure=str(told[-1]) if told else "",
                bytes_up=_sum(of, "bytes_up"),
                bytes_down=_sum(of, "bytes_down"),
                increments=of["increment"],
                recent=recent,
            )
        )
    sign = -1.0 if metric in ERRORS else 1.0
    return sorted(found, key=lambda one: (math.isnan(one.value), sign * one.value, one.client))


def _forgetting(recent: Floats, metric: str) -> float:
    known = recent[np.isfinite(recent)]
    if not len(known):
        return math.nan
    return float(known[-1] - known.min() if metric in ERRORS else known.max() - known[-1])


def _rounds(increments: Floats, of_rounds: Floats) -> float:
    """Of all increments."""
    return float(of_rounds[np.unique(increments, return_index=True)[1]].sum())


def _sum(of: Mapping[str, Floats], column: str) -> int:
    """The sum of a column; 0 for increments of an earlier incr, which had no such column."""
    return int(np.nansum(of[column])) if column in of else 0


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan
