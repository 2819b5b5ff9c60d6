"""What is known of a run's versions without their weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from incr_core.registry import RunDirectory
from incr_core.runs._status import held_back
from incr_core.storage import located

__all__ = ["VersionRecord"]


@dataclass(frozen=True)
class VersionRecord:
    """What is known of a version without its weights.

    after: the name of the increment that it was committed after, the run's number `increment`. rows: learned since the
    version before. metrics: the prequential metrics up to it. has_weights: False once pruned (`publish.keep`).
    held: why the gate has not let it become the champion; "" where it has, or the job has no gate.
    """

    number: int
    increment: int
    after: str
    rows: int
    created: str
    model_sha256: str
    champion: bool
    has_weights: bool
    metrics: dict[str, float]
    held: str = ""

    @classmethod
    def all_of(cls, path: str | Path) -> list[VersionRecord]:
        """Those of a run, oldest first. Raises RunDirectoryError where there is no run."""
        directory = RunDirectory.open(located(path))
        told = {row["version"]: row for row in directory.table("metrics").to_pylist()}  # the last increment of each
        return [
            cls(
                number=found["version"],
                increment=found["increment"],
                after=found["name"],
                rows=found["rows"],
                created=found["created"],
                model_sha256=found["model_sha256"],
                champion=found["champion"],
                has_weights=found["has_weights"],
                metrics={
                    key.removeprefix("total."): value
                    for key, value in told.get(found["version"], {}).items()
                    if key.startswith("total.") and value is not None
                },
                held=held_back(found),
            )
            for found in directory.versions()
        ]
