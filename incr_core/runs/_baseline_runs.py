"""The baselines of a run: runs of their own, in folders beside it, one after another once it has ended."""

from __future__ import annotations

from pathlib import Path

from incr_core.registry import RunDirectory

__all__ = ["baseline_runs", "going_on"]


def baseline_runs(directory: Path) -> list[Path]:
    """The directories of the baselines that a run has begun."""
    return [file.parent for file in sorted(directory.glob("baselines/*/job.toml"))]


def going_on(directory: RunDirectory) -> tuple[RunDirectory, str] | None:
    """Of a run and its baselines, the one that a process learns, and that process; None where none does."""
    for path in (directory.path, *baseline_runs(directory.path)):
        found = directory if path == directory.path else RunDirectory.open(path)
        if (holder := found.holder()) is not None:
            return found, holder if found is directory else f"{holder}, at the baseline {path.name}"
    return None
