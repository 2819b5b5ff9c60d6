"""Records of a run's versions without their weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from incr_core.registry import RunDirectory
from incr_core.runs._status import held_back
from incr_core.storage import located

__all__ = ["VersionRecord"]


@dataclass(frozen=True)
class VersionRecord:
    """Record of a version without its weights.

    Attributes:
        after: Name of the increment after which it was committed; `increment` is its number.
        rows: Rows learned since the previous version.
        metrics: Prequential metrics up to the version.
        has_weights: False after the weights were pruned (`publish.keep`).
        held: Reason why the gate has not promoted it; "" if it was promoted or the job has no gate.
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
        """Read the records of a run, oldest first. Raises RunDirectoryError if there is no run."""
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
