"""Going back to a version for good: learning goes on from it, and what was learned since is undone."""

from __future__ import annotations

from typing import Any

from incr_core.data.timeline import Tick
from incr_core.errors import RunDirectoryError, VersionError
from incr_core.loop._events import Event, events_table
from incr_core.registry import RunDirectory, loop_state, states_of
from incr_core.registry.ledger import count
from incr_core.storage import copy_of

__all__ = ["roll_back"]


def roll_back(directory: RunDirectory, version: int, *, drop: bool) -> tuple[int, int]:
    """Let a run go on from a version; returns the number that it has now, and how many rows are undone.

    Those rows are pending again: they are learned anew where their files are still there. drop: they are set aside
    instead, in quarantine, and learning goes on behind them.

    Raises VersionError where the version has no weights or state to go on from any more, RunDirectoryError where
    participants keep theirs elsewhere.
    """
    directory.require(version)
    place, last = directory.path, directory.versions()[-1]
    if copy_of(place) is not None:
        raise RunDirectoryError(
            f"{place}: expected a run in a folder, got one in an object store, which cannot be rolled back; "
            "copy it to a folder"
        )
    rows = count(undone) if (undone := directory.table("ledger", version + 1)).num_rows else 0
    done = f"{rows:,} rows are set aside, in quarantine" if drop else f"{rows:,} rows are pending again"

    def going_on(state: dict[str, Any]) -> dict[str, Any]:
        there = {name for name, _ in states_of(place, version)}
        if missing := [name for name in state["participants"] if name not in there]:
            raise VersionError(
                f"{place}: version {version}: expected the states of all participants here, got none of "
                f"{', '.join(missing[:3])}, which keeps its own elsewhere; begin another run to learn without what "
                "came since, or pin the version (incr pin)"
            )
        events = state["totals"]["events"]
        events["rollback"] = events.get("rollback", 0) + 1
        if drop:
            why = f"set aside by a rollback from version {last['version']} to {version}"
            until = loop_state(place, last["version"])["reached"]
            state["dropped"] = {"up_to": last["increment"], "until": until, "why": why}
        return state

    manifest = next(found for found in directory.versions() if found["version"] == version)
    tick = Tick(manifest["increment"], manifest["name"])
    event = Event(tick, "rollback", f"from version {last['version']} to {version}", done, rows)
    return directory.restore(version, state=going_on, events=events_table([event])), rows
