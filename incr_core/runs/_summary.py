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
    """What a run came to, the last time that it ended or was stopped.

    finished: whether its stream ended; False where it was asked to stop. increments, rows_learned, rows_predicted,
    rows_quarantined, rows_duplicate, files_quarantined: so far. events: kind -> how many. prequential: the objective's
    metrics over all rows, each predicted before it was learned; NaN where too few are scored; main_metric is the one
    to look at first.
    wall_seconds, rows_per_second: over all calls. version, model_sha256: those learned last. taught_by: the teacher of
    a distilled model. replicas: of a run whose replicas have changed, from which increments on there were how many.
    clients: of a run whose clients own their rows, how many rows of each are learned, and the hash of its own ledger.
    rows_pending: of one that simulates clients that may be away, how many rows of which client nobody has learned.
    slices: of a job with `features.slices`, the rows scored of each slice and the metrics on them.
    rows_dropped: not learned, since there were more than `limits` allows.
    privacy: what was spent of `federated.privacy`, of how much, at which delta, and where the clip is.

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
    privacy: dict[str, float] | None = None
    slices: dict[str, dict[str, float]] | None = None
    rows_dropped: int | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """The summary that a document holds."""
        measured = {name: math.nan if value is None else value for name, value in document["prequential"].items()}
        return cls(**{**document, "prequential": measured})

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The summary of a run directory; RunDirectoryError where the run has not come to one.

        >>> Summary.read(Path("/nowhere"))
        Traceback (most recent call last):
        ...
        incr_core.errors.RunDirectoryError: /nowhere/summary.json: expected the numbers of a run that has ended or was
        stopped, got none; go on with the run, and it writes them
        """
        document = read_summary(directory)
        if not document:
            raise RunDirectoryError(
                f"{directory / 'summary.json'}: expected the numbers of a run that has ended or was stopped, got none; "
                "go on with the run, and it writes them"
            )
        return cls.of(document)

    def document(self) -> dict[str, Any]:
        """Nested dictionaries, as in summary.json, without what does not apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}
