"""Events: what happened in a run besides learning, increment by increment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

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
    """Something that happened at an increment.

    increment, name: where. kind: "diverged", "drift", "task", "review" or "bad file". what: in words. action: what was
    done.
    rows: how many rows it is about.

    >>> Event(3, "2013-02-01", "diverged", "the loss is nan", "quarantined its rows", 900).kind
    'diverged'
    """

    increment: int
    name: str
    kind: str
    what: str
    action: str
    rows: int


def events_table(events: Sequence[Event]) -> pa.Table:
    """Events as a table, for the table of events.

    >>> events_table([]).column_names
    ['increment', 'name', 'kind', 'what', 'action', 'rows']
    """
    return pa.table({name: [getattr(event, name) for event in events] for name in SCHEMA.names}, schema=SCHEMA)
