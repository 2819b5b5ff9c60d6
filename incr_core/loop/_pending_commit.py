"""Uncommitted: what was learned since the last commit, as the tables that the next one makes durable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from incr_core.data.encoding import BadFile, BadRow, files_table, quarantine_table
from incr_core.loop._events import Event, events_table
from incr_core.registry.ledger import SCHEMA, entry_table
from incr_core.rounds import Arrival, Round

__all__ = ["Uncommitted", "metrics_row", "metrics_table"]


@dataclass(slots=True)
class Uncommitted:
    """What was learned since the last commit; gone without a trace where the loop goes back to it.

    metrics: a row per increment. rows: participant -> ids of the rows it learned. bad: rows that cannot be used, and
    bad_files: files. duplicates: participant -> ids of rows that were learned before.
    refused: the rows of diverged increments, as tables. events: what happened besides.
    """

    metrics: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, list[Tensor]] = field(default_factory=dict)
    duplicates: dict[str, list[Tensor]] = field(default_factory=dict)
    bad: list[BadRow] = field(default_factory=list)
    bad_files: list[BadFile] = field(default_factory=list)
    refused: list[pa.Table] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def tables(self, version: int, fragments: Sequence[str], increment: int) -> dict[str, pa.Table]:
        """What a commit takes of it: metrics, ledger, duplicates, quarantine and events.

        fragments: paths by number; increment: the last one.

        >>> {name: len(table) for name, table in Uncommitted([{"increment": 7}]).tables(1, [], 7).items()}
        {'metrics': 1, 'ledger': 0, 'duplicates': 0, 'quarantine': 0, 'events': 0}
        """

        def entries(rows: dict[str, list[Tensor]]) -> pa.Table:
            parts = [
                entry_table(version, name, torch.cat(ids), fragments, increment=increment) for name, ids in rows.items()
            ]
            return pa.concat_tables(parts) if parts else SCHEMA.empty_table()

        return {
            "metrics": metrics_table(self.metrics),
            "ledger": entries(self.rows),
            "duplicates": entries(self.duplicates),
            "quarantine": pa.concat_tables([quarantine_table(self.bad), files_table(self.bad_files), *self.refused]),
            "events": events_table(self.events),
        }


def metrics_row(
    arrivals: Sequence[Arrival],
    learned: Round,
    rows: int,
    measured: dict[str, float],
    sofar: dict[str, float],
    version: int,
) -> dict[str, Any]:
    """One increment as a row of the table of metrics.

    rows: how many were learned; measured, sofar: the objective's metrics over this increment and over all; version:
    the one that it will be part of.

    >>> arrival = Arrival(3, "2013-02-01", False, 5, torch.arange(4), 5, 4, {}, {})
    >>> row = metrics_row([arrival], Round({"loss": 2.0}, passes_rows=4), 4, {"auc": 0.7}, {"auc": 0.6}, 1)
    >>> row["increment"], row["rows_labelled"], row["metric.auc"], row["total.auc"], row["loss.loss"]
    (3, 4, 0.7, 0.6, 0.5)
    """
    first = arrivals[0]
    return {
        "increment": first.number,
        "name": first.name,
        "warm": first.warm,
        "rows_arriving": sum(arrival.arriving for arrival in arrivals),
        "rows_labelled": rows,
        "rows_scored": sum(arrival.scored for arrival in arrivals),
        "rows_duplicate": sum(len(arrival.duplicates) for arrival in arrivals),
        **{f"metric.{name}": value for name, value in measured.items()},
        **{f"total.{name}": value for name, value in sofar.items()},
        **{f"loss.{name}": value / learned.passes_rows for name, value in learned.losses.items()},
        "seconds_predicting": max(arrival.seconds for arrival in arrivals),
        "seconds_learning": learned.seconds_learning,
        "seconds_exchanging": learned.seconds_exchanging,
        "bytes_exchanged": learned.bytes_exchanged,
        "version": version,
    }


def metrics_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Metrics of increments as a table; a column some increments lack is null there.

    >>> metrics_table([{"increment": 0}, {"increment": 1, "metric.auc": 0.5}])["metric.auc"].to_pylist()
    [None, 0.5]
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in names})
