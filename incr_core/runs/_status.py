"""What a run is at, from its files: while another process learns, and afterwards."""

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
    """Where a run stands, as its files tell it.

    running: the process that holds it or one of its baselines, as "pid 123 on HOST"; None where no run is going.
    increment, after: of the last committed one. rows_per_second: over the increments of the last version. metrics:
    prequential, up to there. events: kind -> how many. committed: when the latest version was, UTC. stop_asked: whether
    the run is asked to stop. clients: of a federated run, how each stands (`report.Standing`), the worst first.
    slices: of a job with `features.slices`, how each stands (`report.SliceStanding`), the worst first.
    held: why the gate holds the latest version back; "" where it does not. held_in_a_row: how many, with it.
    detached: of a detached run that goes on, where, and how many processes its loop has had; learning: what it is at.
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
    held: str = ""
    held_in_a_row: int = 0
    clients: list[dict[str, Any]] = field(default_factory=list)
    slices: list[dict[str, Any]] = field(default_factory=list)
    detached: dict[str, Any] | None = None
    learning: dict[str, Any] | None = None

    @classmethod
    def of(cls, path: str | Path) -> Status:
        """Read it. Raises RunDirectoryError where there is no run."""
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
            held=held_back(last),
            held_in_a_row=last.get("gate", {}).get("held", 0),
            **_kept(directory),
        )

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def held_back(manifest: Mapping[str, Any]) -> str:
    """Why the gate has held a version back, from its manifest; "" where it has not.

    >>> held_back({"gate": {"promoted": False, "why": "loss 0.8"}}), held_back({})
    ('loss 0.8', '')
    """
    gate = manifest.get("gate", {})
    return "" if gate.get("promoted", True) else str(gate["why"])


def _kept(directory: RunDirectory) -> dict[str, Any]:
    """What a detached run tells of itself while it goes on."""
    found = Detached.read(directory.path)
    if found is None or not found.goes_on:
        return {}
    told = read_progress(directory.path).get("runs", {})
    return {
        "detached": {"place": found.place, "starts": found.starts, "in_vain": found.in_vain},
        "learning": told.get(str(directory.job().get("name", ""))),
    }
