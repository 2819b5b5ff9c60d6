"""Increments learned since the last commit, as the tables of the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from incr_core.data.encoding import BadFile, BadRow, files_table, quarantine_table
from incr_core.data.timeline import Tick
from incr_core.loop._events import Event, events_table
from incr_core.metrics import Statistics, trivial_metrics
from incr_core.registry.ledger import entries_table
from incr_core.rounds import Arrival, Contributions, Counts, Round

__all__ = ["PendingCommit", "metrics_row", "metrics_table", "trivial_columns"]


@dataclass(slots=True)
class PendingCommit:
    """Increments learned since the last commit; dropped if the loop returns to it.

    last: the last increment's tick; None if there is nothing to commit. metrics: a row per increment.
    rows: participant -> ids of the rows it learned. duplicates: participant -> ids of rows that were learned before.
    dropped: participant -> ids of rows that were left out because of the limits.
    bad, bad_files: rows and files that cannot be used. diverged: the rows of diverged increments, as tables.
    events: all other events. clients: a row per client and increment, if the engine reports clients.
    """

    last: Tick | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, list[Tensor]] = field(default_factory=dict)
    duplicates: dict[str, list[Tensor]] = field(default_factory=dict)
    dropped: dict[str, list[Tensor]] = field(default_factory=dict)
    bad: list[BadRow] = field(default_factory=list)
    bad_files: list[BadFile] = field(default_factory=list)
    diverged: list[pa.Table] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    clients: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return self.last is not None

    def add(self, participants: Sequence[str], arrivals: Sequence[Arrival], *, learned: bool) -> list[BadFile]:
        """Add the rows of an increment, by participant; return the bad files among the reports."""
        self.last = arrivals[0].tick
        for name, arrival in zip(participants, arrivals, strict=True):
            if learned and len(arrival.rows):
                self.rows.setdefault(name, []).append(arrival.rows)
            if len(arrival.duplicates):
                self.duplicates.setdefault(name, []).append(arrival.duplicates)
            if len(arrival.dropped):
                self.dropped.setdefault(name, []).append(arrival.dropped)
            self.bad += arrival.bad
        # All participants that read the same files report the same bad ones.
        files = list(dict.fromkeys(file for arrival in arrivals for file in arrival.bad_files))
        self.bad_files += files
        return files

    def tables(self, version: int, origins: Sequence[str], increment: int) -> dict[str, pa.Table]:
        """Return the tables of a commit: metrics, ledger, duplicates, dropped, quarantine, events and clients.

        Args:
            version: Number of the version.
            origins: Names of fragments, by the number in row ids.
            increment: Number of the last increment.

        >>> tables = PendingCommit(metrics=[{"increment": 7}]).tables(1, [], 7)
        >>> tables["metrics"].num_rows, [name for name, table in tables.items() if not table.num_rows]
        (1, ['ledger', 'duplicates', 'dropped', 'quarantine', 'events', 'clients'])
        """

        def entries(rows: dict[str, list[Tensor]]) -> pa.Table:
            learned = {name: torch.cat(ids) for name, ids in rows.items()}
            return entries_table(version, learned, origins, increment=increment)

        return {
            "metrics": metrics_table(self.metrics),
            "ledger": entries(self.rows),
            "duplicates": entries(self.duplicates),
            "dropped": entries(self.dropped),
            "quarantine": pa.concat_tables([quarantine_table(self.bad), files_table(self.bad_files), *self.diverged]),
            "events": events_table(self.events),
            "clients": metrics_table(self.clients),
        }


def metrics_row(
    arrivals: Sequence[Arrival],
    rows: Counts,
    learned: Round,
    now: dict[str, float],
    so_far: dict[str, float],
    version: int,
    *,
    skipped: bool,
) -> dict[str, Any]:
    """Return one increment as a row of the metrics table.

    Args:
        arrivals: The participants' reports.
        rows: Counts over all participants.
        learned: Losses and costs of learning.
        now: The objective's metrics over this increment.
        so_far: The objective's metrics over all increments.
        version: The version that the increment will be part of.
        skipped: Whether its rows were not learned.

    Example:
        >>> arrival = Arrival(Tick(3, "2013-02-01"), torch.arange(4), arriving=5, predicted=5, scored=4)
        >>> told = [arrival], Counts.of([arrival]), Round({"loss": 2.0}, passes_rows=4)
        >>> row = metrics_row(*told, {"auc": 0.7}, {"auc": 0.6}, 1, skipped=False)
        >>> row["increment"], row["rows_labelled"], row["metric.auc"], row["total.auc"], row["loss.loss"]
        (3, 4, 0.7, 0.6, 0.5)
    """
    tick = arrivals[0].tick
    return {
        "increment": tick.number,
        "name": tick.name,
        "warm": tick.warm,
        "rows_arriving": rows.arriving,
        "rows_labelled": 0 if skipped else rows.labelled,
        "rows_scored": rows.scored,
        "rows_duplicate": rows.duplicates,
        **({"rows_dropped": rows.dropped} if rows.dropped else {}),
        **{f"metric.{name}": value for name, value in now.items()},
        **{f"total.{name}": value for name, value in so_far.items()},
        **{f"loss.{name}": value / learned.passes_rows for name, value in learned.losses.items()},
        "seconds_predicting": max(arrival.seconds for arrival in arrivals),
        "seconds_learning": learned.seconds_learning,
        "seconds_exchanging": learned.seconds_exchanging,
        "bytes_exchanged": learned.bytes_exchanged,
        **({"seconds_hidden": learned.seconds_hidden} if learned.seconds_hidden else {}),
        **({"steps": learned.steps} if learned.steps else {}),
        **({} if (told := learned.contributions) is None else _of_clients(told)),
        "version": version,
    }


def _of_clients(contributions: Contributions) -> dict[str, float]:
    return {
        "norm": contributions.norm,
        "bytes_down": sum(contributions.down.values()),
        "bytes_up": sum(contributions.up.values()),
    }


def trivial_columns(now: Statistics, so_far: Statistics) -> dict[str, float]:
    """Return the metrics of trivial predictions of the same rows, as columns of the table of metrics.

    now, so_far: the statistics of an increment, and of all increments so far. Without statistics there are no columns.
    """
    both = (("trivial", trivial_metrics(now)), ("trivial_total", trivial_metrics(so_far)))
    return {
        f"{kind}.{baseline}.{metric}": value
        for kind, found in both
        for baseline, measured in found.items()
        for metric, value in measured.items()
    }


def metrics_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return metrics of increments as a table; missing entries are null.

    Example:
        >>> metrics_table([{"increment": 0}, {"increment": 1, "metric.auc": 0.5}])["metric.auc"].to_pylist()
        [None, 0.5]
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in names})
