"""Trackers of the tests' own, and calls in the middle of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from incr_core.loop import Progress
from incr_core.trackers import Commit, TrackedRun, Tracker

__all__ = ["Lines", "after", "lines"]


def after(increments: int, call: Callable[[], object]) -> Callable[[str, Progress], None]:
    """For `on_progress`: call once, after that many increments."""
    seen = 0

    def on_progress(name: str, progress: Progress) -> None:
        nonlocal seen
        seen += 1
        if seen == increments:
            call()

    return on_progress


class Lines(Tracker):
    """Writes a line for each call beside the run directory: what it is given, in order."""

    def __init__(self, run: TrackedRun) -> None:
        super().__init__(run)
        self.write("began", run.name, run.baseline, run.id)

    def write(self, *words: Any) -> None:
        """Write a line."""
        with open(self.run.path.with_suffix(".lines"), "a") as file:
            print(*words, file=file, sep=",")

    def follow(self, commit: Commit) -> None:
        """Write the increments."""
        steps = [step for step, numbers in commit.scalars() if numbers["rows_labelled"]]
        self.write("commit", commit.version, commit.champion, commit.restores, *steps)

    def serve(self, version: int) -> None:
        """Write the champion."""
        self.write("serve", version)

    def close(self, finished: bool | None) -> None:
        """Write how the run ended."""
        self.write("close", finished)


def lines(out: Path, kind: str) -> list[list[str]]:
    """The lines of one kind that `Lines` has written for a run, without that word."""
    path = out.with_suffix(".lines")
    found = [line.split(",") for line in path.read_text().splitlines()] if path.exists() else []
    return [words for first, *words in found if first == kind]
