"""The status of a run, as `incr status` prints it: once, or for as long as the run goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from incr_core._util import json_text
from incr_core.runs import Status
from incr_core.shown import shown

__all__ = ["described", "watch"]

LOOK = 0.5
"""Seconds between looks at a run that is watched."""


def watch(directory: str, *, json: bool) -> None:
    """Show the status of a run until it ends: on a terminal in place, elsewhere anew whenever it has changed.

    json: a line of JSON for each change.
    """
    console = Console()
    if json or not console.is_terminal:
        for status in _changes(directory):
            print(json_text(status.document(), indent=None) if json else f"{described(status)}\n", flush=True)
        return
    with Live(console=console, auto_refresh=False) as live:
        for status in _changes(directory):
            live.update(Text(described(status)), refresh=True)


def _changes(directory: str) -> Iterator[Status]:
    """The status now, and whenever it is another one; the last is that of a run that has ended."""
    known = ""
    while True:
        status = Status.of(directory)
        told = json_text(status.document())  # compared as text: a metric that is not a number equals nothing
        if told != known:
            yield status
        if status.running is None and status.detached is None:
            return
        known = told
        time.sleep(LOOK)


def described(status: Status) -> str:
    """A few lines.

    >>> print(described(Status("people", "cluster", "pid 7 on here", 3, 3, 2, "2013-02-01", 900, 450.0, {"auc": 0.7},
    ...     ["replica-0", "replica-1"], {"worker lost": 1}, "2026-01-02T03:04:05+00:00", False)))
    people on cluster: running (pid 7 on here)
      version 3, committed 2026-01-02 03:04:05 UTC after 2013-02-01 (increment 2)
      900 rows learned by replica-0, replica-1; 450 rows/s in that version
      auc 0.7000
      events: worker lost 1
    """
    state = "not running" if status.running is None else f"running ({status.running})"
    if status.detached is not None and status.running is None:
        state = "without a process, until another one is started"
    lines = [f"{shown(status.name)} on {status.engine or 'an engine that is not told'}: {state}"]
    if status.stop_asked:
        lines[0] += "; asked to stop"
    if status.detached is not None:
        starts = status.detached["starts"]
        lines.append(f"  {shown(status.detached['place'])}" + f"; its loop has had {starts} processes" * (starts > 1))
    if (now := status.learning) is not None:
        lines.append(f"  learned {shown(now['increment'])}: {now['rows']:,} rows, {now['rows_per_second']:,.0f} rows/s")
    if status.version is None:
        return "\n".join([*lines, "  nothing is committed yet"])
    committed = (status.committed or "").replace("T", " ")[:19]
    champion = "" if status.champion == status.version else f"; the champion is version {status.champion}"
    lines.append(
        f"  version {status.version}, committed {committed} UTC after {shown(status.after)} "
        f"(increment {status.increment}){champion}"
    )
    if status.held:
        lines.append(f"  held, {status.held_in_a_row} in a row: {shown(status.held)}")
    elif status.judged:
        held = status.events.get("held", 0)
        lines.append(f"  the gate judges each version before it is served; held so far: {held:,}")
    rate = "" if status.rows_per_second is None else f"; {status.rows_per_second:,.0f} rows/s in that version"
    by = f" by {shown(', '.join(status.participants))}" if status.participants else ""
    if len(status.participants) > SHOWN:
        by = f" by {len(status.participants):,} {'clients' if status.clients else 'participants'}"
    lines.append(f"  {status.rows_learned:,} rows learned{by}{rate}")
    if status.metrics:
        lines.append("  " + "  ".join(f"{shown(name)} {value:.4f}" for name, value in status.metrics.items()))
    lines += _slices(status.slices) + _clients(status.clients)
    if status.events:
        lines.append("  events: " + ", ".join(f"{kind} {count:,}" for kind, count in status.events.items()))
    return "\n".join(lines)


SHOWN = 5
"""So many clients and slices are told of, and so many participants by their names."""


def _slices(slices: list[dict[str, Any]]) -> list[str]:
    """A line for each of the worst.

    >>> told = {"metric": "auc", "recent": 0.6, "rows": 900}
    >>> print("\\n".join(_slices([{"slice": "origin=JFK", "value": 0.61, "gap": 0.05, **told}])))
      slices, the worst first (1 in all):
        origin=JFK: auc 0.6100, 0.0500 worse than all rows; recently 0.6000; 900 rows
    """
    lines = [f"  slices, the worst first ({len(slices):,} in all):"] if slices else []
    for one in slices[:SHOWN]:
        value = "no value yet" if one["value"] is None else f"{one['metric']} {one['value']:.4f}"
        gap = "" if one["gap"] is None else f", {abs(one['gap']):.4f} {'better' if one['gap'] < 0 else 'worse'}"
        gap += " than all rows" if gap else ""
        recent = "" if one["recent"] is None else f"; recently {one['recent']:.4f}"
        lines.append(f"    {shown(one['slice'])}: {value}{gap}{recent}; {one['rows']:,} rows")
    return lines


def _clients(clients: list[dict[str, Any]]) -> list[str]:
    """A line for each of the worst, and one on those that fail.

    >>> told = {"metric": "auc", "rows_learned": 900, "weight": 0.25, "participation": 1.0, "failure": "no answer",
    ...         "bytes_up": 2_500_000, "bytes_down": 90_000_000}
    >>> print("\\n".join(_clients([{"client": "north", "value": 0.61, "forgetting": 0.02, "failures": 2, **told}])))
      clients, the worst first (1 in all):
        north: auc 0.6100, forgetting 0.0200; 900 rows learned, weight 25%, learned in 100% of its increments;
          2.5 MB sent, 90 MB received; 2 failures, the last: no answer
    """
    lines = [f"  clients, the worst first ({len(clients):,} in all):"] if clients else []
    for one in clients[:SHOWN]:
        value = "no value yet" if one["value"] is None else f"{one['metric']} {one['value']:.4f}"
        past = "" if one["forgetting"] is None else f", forgetting {one['forgetting']:.4f}"
        weight = "" if one["weight"] is None else f", weight {100 * one['weight']:.3g}%"
        part = one["participation"]
        often = "" if part is None else f", learned in {100 * part:.3g}% of its increments"
        moved = f"; {one['bytes_up'] / 1e6:,.3g} MB sent, {one['bytes_down'] / 1e6:,.3g} MB received"
        failed = f"; {one['failures']:,} failures, the last: {shown(one['failure'])}" if one["failures"] else ""
        rows = f"{one['rows_learned']:,} rows learned"
        lines.append(f"    {shown(one['client'])}: {value}{past}; {rows}{weight}{often}{moved}{failed}")
    failing = sum(1 for one in clients[SHOWN:] if one["failures"])
    return lines + ([f"    {failing:,} of the others have failures"] if failing else [])
