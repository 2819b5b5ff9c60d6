"""Permanent rollback to a version: learning continues from it, and later versions are undone."""

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
    """Continue a run from an earlier version.

    The undone rows become pending again, and are learned again if their files still exist.

    Args:
        directory: The run directory.
        version: The version.
        drop: Set the undone rows aside in quarantine instead, and continue after them.

    Returns:
        The new number of the version, and the number of undone rows.

    Raises:
        VersionError: The version's weights or state no longer exist.
        RunDirectoryError: Participants store their state elsewhere.
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
                f"{', '.join(missing[:3])}, which are stored elsewhere; start another run to learn without the "
                "later rows, or pin the version (incr pin)"
            )
        events = state["totals"]["events"]
        events["rollback"] = events.get("rollback", 0) + 1
        if drop:
            why = f"set aside by a rollback from version {last['version']} to {version}"
            until = loop_state(place, last["version"])["reached"]
            state["dropped"] = {"up_to": last["increment"], "until": until, "why": why}
            state["aside"] = [*state.get("aside", []), [state["reached"], until]]
        return state

    manifest = next(found for found in directory.versions() if found["version"] == version)
    tick = Tick(manifest["increment"], manifest["name"])
    event = Event(tick, "rollback", f"from version {last['version']} to {version}", done, rows)
    return directory.restore(version, state=going_on, events=events_table([event])), rows
