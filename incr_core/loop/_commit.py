"""A commit: the participants' state first, then, by one rename, everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from incr_core.engines import Engine
from incr_core.loop._gate import Verdict
from incr_core.loop._pending_commit import PendingCommit
from incr_core.registry import RunDirectory
from incr_core.storage import checkpoint

__all__ = ["prepared"]


def prepared(
    directory: RunDirectory,
    engine: Engine,
    version: int,
    pending: PendingCommit,
    state: Mapping[str, Any],
    shape: Mapping[str, Any],
    verdict: Verdict | None = None,
) -> Callable[[Callable[[], bool]], None]:
    """Let the participants keep their state, and return what makes the commit of what is pending visible.

    That may be called in another thread, while the engine goes on, if the engine saves meanwhile. state: the loop's
    own, to go on from. shape: of rows, which a version needs to predict without the stream. verdict: of the gate, where
    there is one; without, every version is published.
    """
    last, history, extra_state = pending.last, engine.history(), engine.extra_state()
    with checkpoint.unsynced() as unsynced:
        kept = {**state, "engine": engine.save(version), "participants": list(engine.participants)}
    increment, name = (-1, "") if last is None else (last.number, last.name)
    tables = pending.tables(version, engine.origins, increment)
    if personal := list(engine.personal):
        shape = {**shape, "personal": personal}
    swept, retired = list(engine.swept), list(engine.retired)

    judged = {} if verdict is None else {"gate": verdict.document()}

    def finish(given_up: Callable[[], bool]) -> None:
        directory.commit(
            engine.written(version, given_up),
            manifest={"increment": increment, "name": name, **shape, **judged},
            **tables,
            extra={} if history is None else {"history": history},
            extra_state=extra_state,
            state=kept,
            publish=verdict is None or verdict.promoted,
            participants=swept,
            retired=retired,
            unsynced=unsynced,
        )

    return finish
