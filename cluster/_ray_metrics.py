"""Metrics of a run that Ray exports beside its own. Prometheus finds them on the node of the loop."""

from __future__ import annotations

from typing import Protocol

from ray.util.metrics import Counter, Gauge

from incr_core.rounds import Round

__all__ = ["Exported", "Exports"]


class Exports(Protocol):
    """Metrics of a run for those who monitor the cluster."""

    def learned(self, rows: int, seconds_predicting: float, done: Round) -> None:
        """Record that an increment was learned."""

    def committed(self, version: int) -> None:
        """Record that the run is at a version."""

    def lost(self) -> None:
        """Record that a worker was lost."""


class Exported:
    """Metrics of one run. The tag `run` is the run's directory. Ray adds the prefix `ray_` to their names.

    Counters keep their values. A gauge is exported once each time it is set.
    """

    def __init__(self, run: str) -> None:
        tags, keys = {"run": run}, ("run",)
        self._rows = Counter("incr_rows_learned", "Rows learned, those learned again after a loss too.", keys)
        self._speed = Gauge("incr_rows_per_second", "Rows learned per second, in the last increment.", keys)
        self._exchanging = Counter("incr_seconds_exchanging", "Seconds in which replicas exchanged weights.", keys)
        self._versions = Counter("incr_versions", "Number of the version that was committed last.", keys)
        self._lost = Counter("incr_lost_workers", "Workers lost.", keys)
        for metric in (self._rows, self._speed, self._exchanging, self._versions, self._lost):
            metric.set_default_tags(tags)
        self._version = 0

    def learned(self, rows: int, seconds_predicting: float, done: Round) -> None:
        """Record that an increment was learned."""
        if done.seconds_exchanging:
            self._exchanging.inc(done.seconds_exchanging)
        if rows:
            self._rows.inc(rows)
            self._speed.set(rows / (seconds_predicting + done.seconds_learning + done.seconds_exchanging))

    def committed(self, version: int) -> None:
        """Record that the run is at a version."""
        if version > self._version:
            self._versions.inc(version - self._version)
            self._version = version

    def lost(self) -> None:
        """Record that a worker was lost."""
        self._lost.inc()
