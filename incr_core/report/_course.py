"""The course of a run: metrics and events as arrays over its increments."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from incr_core.registry import WORK

__all__ = ["Course", "Floats", "days", "floats", "moving_sum", "read_summary", "rolling"]

Floats = npt.NDArray[np.float64]


@dataclass
class Course:
    """One run's course: arrays over its increments (n,)."""

    name: str
    metric: str
    x: Floats
    """Days since the epoch if increments are named by time, else their numbers."""
    dated: bool
    values: Floats
    totals: Floats
    rows: Floats
    scored: Floats
    seconds: dict[str, Floats]
    losses: dict[str, Floats]
    versions: Floats
    final: float
    span: int
    label: str
    """The name of the last increment."""
    events: dict[str, Floats]
    """Kind of event -> positions of these events on the scale of x."""
    trivial: dict[str, tuple[Floats, Floats]]
    """Trivial prediction -> its values and totals of the same metric, if they are known."""

    @classmethod
    def of(
        cls,
        name: str,
        table: pa.Table,
        summary: Mapping[str, Any],
        events: pa.Table | None = None,
        metric: str | None = None,
    ) -> Course:
        """The course in a table of metrics, where its summary says how it ended, and the run's events.

        metric: the one to follow; None: the summary's main metric.
        """
        names = table.column_names
        metrics = [column.removeprefix("metric.") for column in names if column.startswith("metric.")]
        metric = metric or summary.get("main_metric") or (metrics[0] if metrics else "")
        dates = days(table["name"].to_pylist()) if "name" in names else None
        totals = floats(table, f"total.{metric}")
        known = totals[np.isfinite(totals)]
        x = floats(table, "increment") if dates is None else dates
        final = (summary.get("prequential") or {}).get(metric, known[-1] if len(known) else np.nan)
        return cls(
            name=name,
            metric=metric,
            x=x,
            dated=dates is not None,
            values=floats(table, f"metric.{metric}"),
            totals=totals,
            rows=np.nan_to_num(floats(table, "rows_labelled")),
            scored=np.nan_to_num(floats(table, "rows_scored")),
            seconds={phase: np.nan_to_num(floats(table, f"seconds_{phase}")) for phase in WORK},
            losses={
                column.removeprefix("loss."): floats(table, column)
                for column in names
                if column.startswith("loss.") and np.isfinite(floats(table, column)).any()
            },
            versions=floats(table, "version"),
            final=np.nan if final is None else float(final),  # null in JSON
            # A fortieth of the run is smooth enough to read and short enough to show drift.
            span=max(1, round(table.num_rows / 40)),
            label=str(table["name"][-1]) if "name" in names and table.num_rows else "",
            events={} if events is None else _places(events, x, floats(table, "increment")),
            trivial={
                baseline: (floats(table, f"trivial.{baseline}.{metric}"), floats(table, column))
                for column in names
                if column.startswith("trivial_total.") and column.endswith(f".{metric}")
                for baseline in [column.removeprefix("trivial_total.").removesuffix(f".{metric}")]
            }
            | _popularity(table, metric),
        )

    @property
    def published(self) -> Floats:
        """Positions of the committed versions on the scale of x: the last increment of each."""
        known = np.flatnonzero(np.isfinite(self.versions))
        if not len(known):
            return np.empty(0)
        last = np.r_[np.diff(self.versions[known]) != 0, True]
        return self.x[known[last]]

    @property
    def has_metric(self) -> bool:
        """Whether there is any value to draw."""
        return bool(np.isfinite(self.values).any() or np.isfinite(self.totals).any())


def _popularity(table: pa.Table, metric: str) -> dict[str, tuple[Floats, Floats]]:
    """The same metric of a ranking by popularity, where the whole catalogue is ranked."""
    column = f"metric.popularity {metric}"
    if column not in table.column_names:
        return {}
    return {"popularity": (floats(table, column), floats(table, f"total.popularity {metric}"))}


def _places(events: pa.Table, x: Floats, increments: Floats) -> dict[str, Floats]:
    """The positions of the events of each kind."""
    if not events.num_rows or not len(x):
        return {}
    kinds = np.array(events["kind"].to_pylist())
    at = np.searchsorted(increments, floats(events, "increment")).clip(max=len(x) - 1)
    return {kind: x[np.unique(at[kinds == kind])] for kind in dict.fromkeys(kinds.tolist())}


def floats(table: pa.Table, column: str) -> Floats:
    if column not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return np.asarray(table[column].cast(pa.float64()).to_numpy(), np.float64)


def days(names: Sequence[Any]) -> Floats | None:
    """Return days since the epoch if the names are ascending times.

    The first and the last name may be words of the stream such as "warm start". They are placed next to their
    neighbours.
    """
    named = [str(name) for name in names]
    if len(named) > 2:
        named[0] = named[1] if "-" not in named[0] else named[0]
        named[-1] = named[-2] if "-" not in named[-1] else named[-1]
    try:
        times = [datetime.datetime.fromisoformat(name).replace(tzinfo=None) for name in named if "-" in name]
    except (TypeError, ValueError):
        return None
    since = np.array(times, "datetime64[us]").astype(np.int64) / 86_400e6
    ordered = len(since) == len(names) and len(since) > 0 and bool((np.diff(since) >= 0).all())
    return np.asarray(since, np.float64) if ordered else None


def rolling(values: Floats, weights: Floats, span: int) -> Floats:
    """The weighted mean over the last `span` increments; NaN if none of them has a value."""
    known = np.isfinite(values) & (weights > 0)
    weight = moving_sum(np.where(known, weights, 0.0), span)
    total = moving_sum(np.where(known, values * weights, 0.0), span)
    seen = moving_sum(known.astype(np.float64), span) > 0
    mean = np.full(len(values), np.nan)
    np.divide(total, weight, out=mean, where=seen)
    return mean


def moving_sum(values: Floats, span: int) -> Floats:
    """Sums over the last `span` values.

    >>> moving_sum(np.array([1.0, 2.0, 3.0]), 2)
    array([1., 3., 5.])
    """
    sums = np.cumsum(np.concatenate([np.zeros(span), values]))
    return np.asarray(sums[span:] - sums[:-span], np.float64)


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the content of summary.json, or {} if there is no such file.

    >>> read_summary(Path("/nowhere"))
    {}
    """
    try:
        found = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
