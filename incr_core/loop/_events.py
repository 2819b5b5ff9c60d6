"""Events of a run besides learning, by increment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from incr_core.data.timeline import Tick

__all__ = ["Event", "events_table"]

SCHEMA = pa.schema(
    [
        ("increment", pa.int64()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("what", pa.string()),
        ("action", pa.string()),
        ("rows", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Event:
    """An event at an increment.

    kind: "diverged", "drift", "task", "review", "held", "promoted", "bad file", "worker lost", "node leaving" or
    "limit".
    what: description in words. action: the reaction. rows: number of rows concerned.

    Example:
        >>> Event(Tick(3, "2013-02-01"), "diverged", "the loss is nan", "quarantined its rows", 900).kind
        'diverged'
    """

    tick: Tick
    kind: str
    what: str
    action: str
    rows: int


def events_table(events: Sequence[Event]) -> pa.Table:
    """Return events as a table.

    Example:
        >>> events_table([]).column_names
        ['increment', 'name', 'kind', 'what', 'action', 'rows']
    """
    rows = [
        {
            "increment": event.tick.number,
            "name": event.tick.name,
            "kind": event.kind,
            "what": event.what,
            "action": event.action,
            "rows": event.rows,
        }
        for event in events
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
