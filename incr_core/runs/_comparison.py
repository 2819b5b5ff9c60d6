"""Comparison of several runs: their results, and the differences between their jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from incr_core.errors import ArgumentError
from incr_core.registry import RunDirectory, RunTotals, engine_of
from incr_core.storage import located

__all__ = ["Compared", "Comparison", "compare"]

ENGINES = ("cluster", "federated")
"""Sections of a job that have no effect on a run on another engine."""

MISSING = "-"
"""Placeholder for a setting that a job does not contain."""


@dataclass(frozen=True)
class Compared:
    """The results of one run.

    Attributes:
        name: Its folder, or its path if several folders have the same name.
        metrics: Over all predictions so far, each made before its row was learned.
        rows_scored: Number of these predictions.
        rows_per_second: Of work, without waiting; None if unknown.
    """

    name: str
    path: str
    engine: str
    rows_learned: int
    rows_scored: int
    rows_per_second: float | None
    versions: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """Several runs, in the given order.

    Attributes:
        metric: The main metric of the first run.
        settings: Settings of the resolved jobs that differ: name -> the value in each job.
        cautions: Reasons why figures may not be comparable.
    """

    runs: list[Compared]
    metric: str
    settings: dict[str, list[str]]
    cautions: list[str]

    def document(self) -> dict[str, Any]:
        """Return the comparison as a document for JSON."""
        return asdict(self)


def compare(paths: Sequence[str | Path]) -> Comparison:
    """Compare runs, finished or not.

    Raises:
        ArgumentError: There are fewer than two runs.
        RunDirectoryError: There is no run.

    Example:
        >>> import tempfile
        >>> from incr_core.runs import open_run
        >>> folder = tempfile.TemporaryDirectory()
        >>> rows = {"x": [0.0, 1.0, 2.0, 3.0], "y": [0, 1, 0, 1]}
        >>> for name, hidden in (("small", [4]), ("large", [8])):
        ...     run = open_run(Path(folder.name, name), stream=rows, label="y", every=2, hidden=hidden).run()
        >>> found = compare([Path(folder.name, "small"), Path(folder.name, "large")])
        >>> [one.name for one in found.runs], found.settings, found.metric
        (['small', 'large'], {'model.hidden': ['[4]', '[8]']}, 'auc')
        >>> folder.cleanup()
    """
    if len(paths) < 2:
        raise ArgumentError(f"runs: expected at least two to compare, got {len(paths)}")
    folders = [located(path) for path in paths]
    directories = [RunDirectory.open(folder) for folder in folders]
    names = [folder.resolve().name for folder in folders]
    names = [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
    runs = [_compared(*one) for one in zip(directories, names, map(str, paths), strict=True)]
    jobs = [dict(_flat(directory.job())) for directory in directories]
    return Comparison(runs, _metric(runs[0]), _differing(jobs, {one.engine for one in runs}), _cautions(runs, jobs))


def _compared(directory: RunDirectory, name: str, path: str) -> Compared:
    totals = RunTotals.of(directory.table("metrics"))
    return Compared(
        name=name,
        path=path,
        engine=engine_of(directory.path) or "",
        rows_learned=totals.rows_learned,
        rows_scored=totals.rows_scored,
        rows_per_second=totals.rows_per_second,
        versions=len(directory.versions()),
        metrics=totals.metrics,
    )


def _metric(run: Compared) -> str:
    return next(iter(run.metrics), "")


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Flatten a job's settings into text by name.

    Example:
        >>> dict(_flat({"learner": {"epochs": 1}, "strategy": [{"name": "ewc", "strength": 2.0}, {"name": "replay"}]}))
        {'learner.epochs': '1', 'strategy': 'ewc (strength 2.0), replay'}
    """
    for name, said in value.items():
        if isinstance(said, Mapping):
            yield from _flat(said, f"{prefix}{name}.")
        elif said and isinstance(said, list) and all(isinstance(one, Mapping) and "name" in one for one in said):
            yield prefix + name, ", ".join(map(_named, said))
        else:
            yield prefix + name, said if isinstance(said, str) else json.dumps(said, default=str)


def _named(one: Mapping[str, Any]) -> str:
    told = ", ".join(f"{key} {value}" for key, value in one.items() if key != "name")
    return f"{one['name']} ({told})" if told else str(one["name"])


def _differing(jobs: Sequence[Mapping[str, str]], engines: set[str]) -> dict[str, list[str]]:
    unused = tuple(f"{section}." for section in ENGINES if section not in engines)
    names = dict.fromkeys(name for job in jobs for name in job)
    told = {
        name: [MISSING if job.get(name, "[]") == "[]" else job[name] for job in jobs]
        for name in names
        if name not in ("name", "root") and not name.startswith(unused)
    }
    return {name: values for name, values in told.items() if len(set(values)) > 1}


def _cautions(runs: Sequence[Compared], jobs: Sequence[Mapping[str, str]]) -> list[str]:
    """List reasons why these figures may not be comparable."""
    told = []
    if len({one.rows_scored for one in runs}) > 1:
        scored = ", ".join(f"{one.name} {one.rows_scored:,}" for one in runs)
        told.append(f"metrics are over different numbers of rows: {scored}")
    for name in ("stream.path", "features.label"):
        if len({job.get(name) for job in jobs}) > 1:
            told.append(f"{name} differs")
    return told
