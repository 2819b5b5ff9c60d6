"""The status of a run, as `incr status` prints it."""

from __future__ import annotations

from incr_core.runs import Status
from incr_core.shown import shown

__all__ = ["described"]


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
    rate = "" if status.rows_per_second is None else f"; {status.rows_per_second:,.0f} rows/s in that version"
    by = f" by {shown(', '.join(status.participants))}" if status.participants else ""
    lines.append(f"  {status.rows_learned:,} rows learned{by}{rate}")
    if status.metrics:
        lines.append("  " + "  ".join(f"{shown(name)} {value:.4f}" for name, value in status.metrics.items()))
    if status.events:
        lines.append("  events: " + ", ".join(f"{kind} {count:,}" for kind, count in status.events.items()))
    return "\n".join(lines)
