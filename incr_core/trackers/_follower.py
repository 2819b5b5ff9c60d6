"""The thread of one tracker: it delivers new commits, and tries again after an error."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime

from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.shown import shown
from incr_core.storage import told
from incr_core.trackers._base import Commit, TrackedRun, Tracker
from incr_core.trackers._position import read_position, write_position

__all__ = ["Follower"]

LOG = logging.getLogger("incr.track")

LOOK = 0.25
"""Seconds between checks for new commits."""

LONGEST_WAIT = 60.0
"""Seconds between two attempts at most, while a tracker fails."""

PATIENCE = 30.0
"""Seconds that a tracker has for one commit after the run has ended."""

AT_ONCE = 64
"""Versions that are read at once."""


class Follower:
    """Delivers the commits of a run to one tracker, in a thread.

    Args:
        name: The name of the tracker: its key in `[track]`, or its entry in `track.callbacks`.
        make: Connects the tracker.
        job: The job.
        directory: The run directory.
        baseline: The name of the baseline that runs there.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[TrackedRun], Tracker],
        job: Job,
        directory: RunDirectory,
        baseline: str,
    ) -> None:
        self._name, self._make = name, make
        self._job, self._directory, self._baseline = job, directory, baseline
        self._tracker: Tracker | None = None
        self._keeps = False  # whether the tracker keeps its position
        self._position = self._delivered = 0
        self._champion: int | None = None
        self._failures, self._finished, self._abandoned = 0, False, False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"track {name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def end(self, finished: bool) -> None:
        """Ask the thread to deliver the rest and end.

        Args:
            finished: Whether the stream was learned to its end.
        """
        self._finished = finished
        self._ended.set()

    def join(self) -> None:
        """Wait for the thread while it gets further. The next run of the same directory delivers the rest."""
        while self._thread.is_alive():
            before = self._delivered
            self._thread.join(PATIENCE)
            if self._thread.is_alive() and self._delivered == before:
                self._abandoned = True  # the thread ends before its next delivery
                break
        last, latest = self._position, self._directory.latest() or 0
        if last < latest:
            LOG.warning(
                "track %s: %s not delivered; the same command delivers them", self._name, _versions(last + 1, latest)
            )

    def _run(self) -> None:
        while not self._abandoned:
            ends = self._ended.wait(min(2.0 ** (self._failures - 1), LONGEST_WAIT) if self._failures else LOOK)
            try:
                self._catch_up()
                if ends and self._tracker is not None and not self._abandoned:
                    tracker, self._tracker = self._tracker, None
                    tracker.close(self._finished)
            except Exception as error:  # of any library, or of a user's class
                self._failed(error)
            if ends:
                return

    def _catch_up(self) -> None:
        """Deliver all commits since the position, then the champion."""
        directory = self._directory
        if not directory.latest():
            return
        if self._tracker is None:
            self._connect()
        while (first := self._position + 1) <= (latest := directory.latest() or 0):
            last = min(latest, self._position + AT_ONCE)
            for commit in self._commits(first, last):
                if self._abandoned:
                    return
                self._deliver(commit)
            self._position = last  # the last ones may have been rolled back
        champion = directory.champion()
        if champion is not None and champion != self._champion:
            assert self._tracker is not None
            self._tracker.serve(champion)
            self._champion = champion
        if self._failures:
            LOG.warning("track %s: reached again; delivered up to version %d", self._name, self._position)
            self._failures = 0

    def _connect(self) -> None:
        first = self._directory.manifests(1, 1)[0]
        identity = hashlib.sha256(f"{first['created']} {first['model_sha256']}".encode()).hexdigest()[:32]
        path = self._directory.path
        run = TrackedRun(self._job.name, self._baseline, path, told(path.absolute()), self._job, identity)
        self._tracker, self._champion = self._make(run), None
        position = self._tracker.position()
        self._keeps = position is not None
        self._position = read_position(path, self._name) if position is None else position

    def _commits(self, first: int, last: int) -> Iterator[Commit]:
        """The versions `first` to `last` that were not rolled back."""
        rows: dict[int, list[dict[str, object]]] = {}
        for row in self._directory.table("metrics", first, last).to_pylist():
            rows.setdefault(row["version"], []).append(row)
        undone = self._directory.undone()
        for manifest in self._directory.manifests(first, last):
            version = manifest["version"]
            if any(begin <= version <= end for begin, end in undone):
                continue
            yield Commit(
                version,
                datetime.fromisoformat(manifest["created"]),
                manifest.get("serving"),
                manifest.get("restores"),
                tuple(rows.get(version, ())),
                manifest,
            )

    def _deliver(self, commit: Commit) -> None:
        assert self._tracker is not None
        self._tracker.follow(commit)
        if not self._keeps:
            write_position(self._directory.path, self._name, commit.version)
        self._position = commit.version
        self._delivered += 1

    def _failed(self, error: Exception) -> None:
        """Close the tracker, and log the first error of an outage."""
        if self._tracker is not None:
            with suppress(Exception):
                self._tracker.close(None)
            self._tracker = None
        if not self._failures:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            LOG.warning(
                "track %s: version %d cannot be delivered (%s); the run goes on, and delivery is tried again",
                self._name,
                self._position + 1,
                shown(what),
            )
        self._failures += 1


def _versions(first: int, last: int) -> str:
    """Format versions in a sentence.

    Example:
        >>> _versions(3, 3), _versions(3, 5)
        ('version 3 is', 'versions 3 to 5 are')
    """
    return f"version {first} is" if first == last else f"versions {first} to {last} are"
