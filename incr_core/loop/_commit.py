"""A commit: the participants' state first, then, by one rename, everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from incr_core.engines import Engine
from incr_core.loop._pending_commit import PendingCommit
from incr_core.registry import RunDirectory
from incr_core.storage import checkpoint

__all__ = ["publish"]


def publish(
    directory: RunDirectory, engine: Engine, pending: PendingCommit, state: Mapping[str, Any], shape: Mapping[str, Any]
) -> int:
    """Commit what is pending; returns the number of the version.

    state: the loop's own, to go on from. shape: of rows, which a version needs to predict without the stream.
    """
    version, last = directory.next_version(), pending.last
    weights = engine.weights()
    with checkpoint.unsynced() as unsynced:
        kept = {**state, "engine": engine.save(version), "participants": list(engine.participants)}
    increment, name = (-1, "") if last is None else (last.number, last.name)
    history = engine.history()
    return directory.commit(
        weights,
        manifest={"increment": increment, "name": name, **shape},
        **pending.tables(version, engine.fragments, increment),
        extra={} if history is None else {"history": history},
        extra_state=engine.extra_state(),
        state=kept,
        participants=engine.swept,
        retired=engine.retired,
        unsynced=unsynced,
    )
