"""Changes requested by an operator: another champion, or a version to continue from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from incr_core.loop._rollback import roll_back
from incr_core.registry import RunDirectory

__all__ = ["ACTIONS", "carry_out"]

ACTIONS = ("rollback", "promote", "pin", "hold", "unpin")


def carry_out(directory: RunDirectory, asked: Mapping[str, Any]) -> str:
    """Perform the requested change of a run that this process writes, and describe the result.

    Args:
        directory: The run directory.
        asked: The request: `action`, a name in `ACTIONS`; `version`, except for "hold" and "unpin"; `drop` for a
            rollback, whether the rows learned since are set aside.
    """
    action, version, before = asked["action"], asked.get("version"), directory.champion()
    if action == "rollback":
        number, rows = roll_back(directory, version or 0, drop=bool(asked.get("drop")))
        aside = "set aside, in quarantine" if asked.get("drop") else "pending again"
        pinned = f"; the champion stays {directory.champion()}, which is pinned" if directory.pinned() else ""
        return (
            f"version {number} equals version {version}, and learning continues from it; {rows:,} rows learned since "
            f"are {aside}{pinned}"
        )
    if action == "promote":
        directory.promote(version or 0)
        return f"champion: version {version} (was {before or 'none'}), until the next one is published"
    if action in ("pin", "hold"):
        directory.pin(version if action == "pin" else before)
        return f"champion: version {directory.champion()} (was {before or 'none'}), until it is unpinned"
    directory.pin(None)
    return f"no version is pinned; the champion is version {before or 'none'} until the next one is published"
