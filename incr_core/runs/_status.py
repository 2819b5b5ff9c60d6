"""Status of a run, read from its files, during and after learning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from incr_core.registry import STOP, Detached, RunDirectory, RunTotals, asked, engine_of, read_progress
from incr_core.report import slice_standings, standings
from incr_core.runs._baseline_runs import going_on

__all__ = ["Status", "held_back"]


@dataclass(frozen=True)
class Status:
    """Status of a run, as its files report it.

    Attributes:
        running: The process that holds the run or one of its baselines, as "pid 123 on HOST"; None if there is none.
        increment: Number of the last committed increment.
        after: Name of the last committed increment.
        rows_per_second: Over the increments of the last version.
        metrics: Prequential metrics up to the last commit.
        events: Kind -> number of events.
        committed: Time of the latest version, UTC.
        stop_asked: Whether the run is asked to stop.
        clients: Standing of each client of a federated run (`report.Standing`), the worst first.
        slices: Standing of each slice of a job with `features.slices` (`report.SliceStanding`), the worst first.
        judged: Whether a gate judges each version before it is served, as of the latest one.
        held: Reason why the gate holds the latest version back; "" if it does not.
        held_in_a_row: Number of versions held back in a row, including the latest.
        detached: For a detached run that is being learned, its place and the number of processes of its loop so far.
        learning: Progress of the detached loop.
    """

    name: str
    engine: str
    running: str | None
    version: int | None
    champion: int | None
    increment: int | None
    after: str
    rows_learned: int
    rows_per_second: float | None
    metrics: dict[str, float]
    participants: list[str]
    events: dict[str, int]
    committed: str | None
    stop_asked: bool
    judged: bool = False
    held: str = ""
    held_in_a_row: int = 0
    clients: list[dict[str, Any]] = field(default_factory=list)
    slices: list[dict[str, Any]] = field(default_factory=list)
    detached: dict[str, Any] | None = None
    learning: dict[str, Any] | None = None

    @classmethod
    def of(cls, path: str | Path) -> Status:
        """Read the status. Raises RunDirectoryError if there is no run."""
        directory = RunDirectory.open(path)
        version = directory.latest()
        last = next((found for found in directory.versions() if found["version"] == version), {})
        metrics = directory.table("metrics")
        so_far, newest = RunTotals.of(metrics), RunTotals.of(directory.table("metrics", version or 1, version))
        increment: dict[str, Any] = next(iter(metrics.slice(max(0, metrics.num_rows - 1)).to_pylist()), {})
        ledger, events = directory.table("ledger"), directory.table("events")
        return cls(
            name=str(directory.job().get("name", "")),
            engine=engine_of(directory.path),
            running=None if (found := going_on(directory.path)) is None else found[1],
            version=version,
            champion=directory.champion(),
            increment=increment.get("increment"),
            after=str(increment.get("name", "")),
            rows_learned=so_far.rows_learned,
            rows_per_second=newest.rows_per_second,
            metrics=so_far.metrics,
            participants=sorted(ledger["participant"].unique().to_pylist()) if ledger.num_rows else [],
            events=dict(Counter(events["kind"].to_pylist())) if events.num_rows else {},
            committed=last.get("created"),
            stop_asked=asked(directory.path, STOP),
            clients=[one.document() for one in standings(directory.table("clients"))],
            slices=[one.document() for one in slice_standings(metrics)],
            judged="gate" in last,
            held=held_back(last),
            held_in_a_row=last.get("gate", {}).get("held", 0),
            **_kept(directory),
        )

    def document(self) -> dict[str, Any]:
        """Return the status as a document for JSON."""
        return asdict(self)


def held_back(manifest: Mapping[str, Any]) -> str:
    """Return why the gate has held a version back, from its manifest; "" if it has not.

    Example:
        >>> held_back({"gate": {"promoted": False, "why": "loss 0.8"}}), held_back({})
        ('loss 0.8', '')
    """
    gate = manifest.get("gate", {})
    return "" if gate.get("promoted", True) else str(gate["why"])


def _kept(directory: RunDirectory) -> dict[str, Any]:
    """Progress that a detached run reports while it is being learned."""
    found = Detached.read(directory.path)
    if found is None or not found.goes_on:
        return {}
    told = read_progress(directory.path).get("runs", {})
    return {
        "detached": {"place": found.place, "starts": found.starts, "in_vain": found.in_vain},
        "learning": told.get(str(directory.job().get("name", ""))),
    }
