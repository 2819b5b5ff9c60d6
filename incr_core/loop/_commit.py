"""A commit: the participants' state first, then, by one rename, everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from incr_core.engines import Engine, Saving
from incr_core.loop._gate import Verdict
from incr_core.loop._pending_commit import PendingCommit
from incr_core.registry import RunDirectory

__all__ = ["prepared"]


def prepared(
    directory: RunDirectory,
    engine: Engine,
    version: int,
    saving: Saving,
    unsynced: Sequence[Path],
    pending: PendingCommit,
    state: Mapping[str, Any],
    shape: Mapping[str, Any],
    verdict: Verdict | None = None,
) -> Callable[[Callable[[], bool]], None]:
    """What makes the commit of what is pending visible, once participants have begun to save their state.

    That may be called in another thread, while the engine goes on, if the engine saves meanwhile. unsynced: of that
    state, what has not been seen to the disk. state: the loop's own, to go on from. shape: of rows, which a version
    needs to predict without the stream. verdict: of the gate, where there is one; without, every version is published.
    """
    last = pending.last
    increment, name = (-1, "") if last is None else (last.number, last.name)
    kept = {**state, "engine": saving.state, "participants": list(engine.participants)}
    tables = pending.tables(version, engine.fragments, increment)
    manifest = {
        "increment": increment,
        "name": name,
        **shape,
        **({"personal": list(saving.personal)} if saving.personal else {}),
        **({} if verdict is None else {"gate": verdict.document()}),
    }

    def finish(given_up: Callable[[], bool]) -> None:
        directory.commit(
            saving.weights(given_up),
            manifest=manifest,
            **tables,
            extra={} if saving.history is None else {"history": saving.history},
            extra_state=saving.extra_state,
            state=kept,
            publish=verdict is None or verdict.promoted,
            participants=list(saving.swept),
            retired=list(saving.retired),
            unsynced=unsynced,
        )

    return finish
