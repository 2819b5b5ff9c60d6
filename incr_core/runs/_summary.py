"""The numbers of a run, as summary.json holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from incr_core.errors import RunDirectoryError
from incr_core.report import read_summary

__all__ = ["Summary"]


@dataclass(frozen=True)
class Summary:
    """Numbers of a run when it last ended or was stopped.

    Attributes:
        finished: Whether its stream ended; False if it was asked to stop.
        increments: Increments so far.
        rows_learned: Rows so far. Also rows_predicted, rows_quarantined, rows_duplicate and files_quarantined.
        events: Kind -> number of events.
        prequential: The objective's metrics over all rows, each predicted before it was learned; NaN if too few are
            scored.
        main_metric: Name of the most important metric.
        wall_seconds: Over all calls.
        rows_per_second: Over all calls.
        version: The latest version.
        model_sha256: Hash of the latest weights.
        taught_by: The teacher of a distilled model.
        replicas: If the number of replicas has changed, the numbers by first increment.
        clients: If clients own their rows, the rows learned of each, and the hash of its ledger.
        rows_pending: If simulated clients may be absent, the rows of each client that are not learned yet.
        slices: For a job with `features.slices`, the rows scored of each slice and the metrics on them.
        rows_dropped: Rows not learned because of `limits`.
        bytes_judging: Bytes sent between server and clients to judge versions, which `bytes_exchanged` does not count.
        privacy: Spent and total budget of `federated.privacy`, with delta and the current clip.

    Example:
        >>> numbers = {name: 0 for name in Summary.__dataclass_fields__} | {"prequential": {"auc": None}}
        >>> Summary.of(numbers).prequential
        {'auc': nan}
    """

    name: str
    engine: str
    increments: int
    rows_learned: int
    rows_predicted: int
    rows_quarantined: int
    rows_duplicate: int
    files_quarantined: int
    events: dict[str, int]
    rows_per_second: float
    main_metric: str
    prequential: dict[str, float]
    bytes_exchanged: int
    wall_seconds: float
    model_sha256: str
    version: int
    seed: int
    finished: bool
    taught_by: dict[str, Any] | None = None
    replicas: list[list[int]] | None = None
    clients: dict[str, dict[str, Any]] | None = None
    rows_pending: dict[str, int] | None = None
    bytes_judging: int | None = None
    privacy: dict[str, float] | None = None
    slices: dict[str, dict[str, float]] | None = None
    rows_dropped: int | None = None
    bytes_judging: int | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return the summary that a document holds."""
        measured = {name: math.nan if value is None else value for name, value in document["prequential"].items()}
        return cls(**{**document, "prequential": measured})

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read the summary of a run directory. Raises RunDirectoryError if there is none yet.

        Example:
            >>> Summary.read(Path("/nowhere"))
            Traceback (most recent call last):
            ...
            incr_core.errors.RunDirectoryError: /nowhere/summary.json: expected the numbers of a run that has ended or
            was stopped, got none; go on with the run, and it writes them
        """
        document = read_summary(directory)
        if not document:
            raise RunDirectoryError(
                f"{directory / 'summary.json'}: expected the numbers of a run that has ended or was stopped, got none; "
                "go on with the run, and it writes them"
            )
        return cls.of(document)

    def document(self) -> dict[str, Any]:
        """Return nested dictionaries, as in summary.json, without values that do not apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}
