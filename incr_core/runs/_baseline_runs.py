"""Baselines of a run: separate runs, in folders beside it, that are learned one after another once it has ended."""

from __future__ import annotations

from pathlib import Path

from incr_core.storage import lock_of

__all__ = ["baseline_runs", "going_on"]


def baseline_runs(directory: Path) -> list[Path]:
    """Directories of the baselines that a run has begun."""
    return [file.parent for file in sorted(directory.glob("baselines/*/job.toml"))]


def going_on(directory: Path) -> tuple[Path, str] | None:
    """Return the run or baseline that a process is learning, and that process; None if there is none."""
    for path in (directory, *baseline_runs(directory)):
        if (holder := lock_of(path).holder()) is not None:
            return path, holder if path == directory else f"{holder}, at the baseline {path.name}"
    return None
