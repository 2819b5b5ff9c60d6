"""A search for better settings of a job, on a prefix of its stream."""

from __future__ import annotations

import math
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w

from incr_core._util import json_text
from incr_core.engines import Outcome, Report, Trial, engine_named
from incr_core.errors import ArgumentError, JobError, RunDirectoryError
from incr_core.job import Job
from incr_core.loop import Progress
from incr_core.runs._run import Run
from incr_core.runs._search_space import drawn_trials, search_space
from incr_core.storage import write_atomically

__all__ = ["Tuned", "tune"]

BEST, TABLE, SEARCH, TRIALS = "best.toml", "trials.json", "search.json", "trials"


@dataclass(frozen=True, slots=True)
class Tuned:
    """The result of a search.

    Attributes:
        metric: Name of the prequential metric.
        higher_is_better: Whether higher values of it are better.
        rows: Rows after which a trial is complete.
        outcomes: Of all trials; the first is the job as it is written.
        best: The best complete trial; None if none is complete.
        path: The job file of the best trial; None without one.
    """

    metric: str
    higher_is_better: bool
    rows: int
    outcomes: tuple[Outcome, ...]
    best: Outcome | None
    path: Path | None

    def ranked(self) -> list[Outcome]:
        """Return the outcomes: complete ones first, best first; then by rows reached."""
        sign = -1 if self.higher_is_better else 1
        return sorted(self.outcomes, key=lambda one: (-one.rows, math.inf if one.value is None else sign * one.value))

    def document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        table = [asdict(one) | asdict(one.trial) | {"trial": None} for one in self.ranked()]
        for row in table:
            del row["trial"]
        return {
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "rows": self.rows,
            "best": None if self.best is None else self.best.trial.number,
            "job": None if self.path is None else str(self.path),
            "trials": table,
        }


def tune(
    path: str | Path,
    space: Sequence[str] = (),
    out: str | Path | None = None,
    *,
    trials: int = 16,
    rows: int = 50_000,
    seed: int = 0,
    on: str = "cluster",
    keep: bool = False,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> Tuned:
    """Search for better settings of a job, judged prequentially on the first rows of its stream.

    Each trial is an ordinary run in a separate process, with an equal share of the machine or cluster. Trials that
    are behind others after as many rows end early (ASHA; Li et al. 2020, A System for Massively Parallel
    Hyperparameter Tuning). Which ones, depends on the order in which they report; the trials themselves are the same
    for the same seed. An interrupted search continues with the same call.

    Args:
        path: The job file.
        space: What to search: "learner.optimizer.lr=1e-4..1e-1", "learner.batch_size=32|64|128". By default the
            learning rate and the batch size around those of the job.
        out: Directory of the search; by default runs/NAME-tune.
        trials: Number of trials, with the job as it is written as the first.
        rows: Rows after the warm start that a complete trial learns.
        seed: Seed of the draws.
        on: The engine that runs the trials; it must be able to (`Engine.tuner`).
        keep: Whether to keep the run directories of the trials.
        on_outcome: Called when a trial ends.

    Raises:
        JobError: The space or the job is wrong.
        ArgumentError: A number is out of range, or the engine cannot run trials.
        RunDirectoryError: The directory holds another search.
    """
    for name, value, least in (("trials", trials, 2), ("rows", rows, 1)):
        if value < least:
            raise ArgumentError(f"{name}: expected at least {least}, got {value}")
    tuner = engine_named(on).tuner
    if tuner is None:
        raise ArgumentError(f"on: expected an engine that runs trials side by side, such as cluster, got {on}")
    written = Job.written(path).changed({"baselines": {}, "track": {}})
    dimensions = search_space(written, space)
    folder = Path(out or f"runs/{written.name}-tune").absolute()
    job = written.resolved()
    search = {
        "job": written.model_dump(mode="json"),
        "space": [asdict(one) for one in dimensions],
        "trials": trials,
        "rows": rows,
        "seed": seed,
    }
    _claim(folder, search)
    drawn, objective = drawn_trials(written, dimensions, trials, seed), job.objective()
    learn = partial(_learn, job.model_dump(), folder / TRIALS, rows)
    outcomes = tuner(
        drawn,
        learn,
        rows=rows,
        folder=folder,
        higher_is_better=objective.higher_is_better,
        on_outcome=on_outcome,
    )
    if all(one.fault is not None for one in outcomes):
        raise JobError(f"{path}: every trial has failed; the first: {outcomes[0].fault}")
    found = _found(objective.main_metric, objective.higher_is_better, rows, outcomes, folder)
    if found.path is not None and found.best is not None:
        write_atomically(found.path, _job_text(Path(path), found.best.trial.settings).encode())
    write_atomically(folder / TABLE, json_text(found.document()).encode() + b"\n")
    if not keep:
        shutil.rmtree(folder / TRIALS, ignore_errors=True)
    return found


class _Enough(Exception):
    """The trial has learned its rows."""


def _learn(document: Mapping[str, Any], folder: Path, rows: int, trial: Trial, report: Report) -> None:
    """Learn one trial in this process, up to `rows` rows after the warm start, which nothing is judged on."""
    job, place = Job.from_document(document, trial.settings), folder / f"{trial.number:04}"
    noted = place.with_suffix(".warm")  # a trial that is continued does not see its warm start again
    warm = int(noted.read_text()) if noted.exists() else 0

    def on_progress(name: str, progress: Progress) -> None:
        nonlocal warm
        if not math.isfinite(progress.value):
            warm = progress.rows
            return
        if not noted.exists():
            noted.write_text(str(warm))
        report(progress.rows - warm, progress.value)
        if progress.rows - warm >= rows:
            raise _Enough

    with suppress(_Enough):
        Run(place, job).run(on_progress=on_progress)


def _claim(folder: Path, search: Mapping[str, Any]) -> None:
    """Make the directory of a search, or check that it holds this one."""
    text = json_text(search) + "\n"
    try:
        before = (folder / SEARCH).read_text()
    except FileNotFoundError:
        if folder.exists() and any(folder.iterdir()):
            raise RunDirectoryError(f"{folder}: expected an empty directory or a search, got other files") from None
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / SEARCH, text.encode())
        return
    if before != text:
        raise RunDirectoryError(
            f"{folder}: expected the search that began there, got another job, space or number; choose another --out, "
            "or remove the directory"
        )


def _found(metric: str, higher: bool, rows: int, outcomes: Sequence[Outcome], folder: Path) -> Tuned:
    sign = -1 if higher else 1
    ended = [one for one in outcomes if one.fault is None and one.value is not None]
    most = max((one.rows for one in ended), default=0)  # of a stream that has fewer rows: all of them
    complete = [one for one in ended if one.rows == most]
    best = min(complete, key=lambda one: sign * (one.value or 0.0), default=None)
    return Tuned(metric, higher, rows, tuple(outcomes), best, None if best is None else folder / BEST)


def _job_text(path: Path, settings: Sequence[str]) -> str:
    """Return the job file with other settings, as a job file that can be moved."""
    document = tomllib.loads(path.read_text())
    document.setdefault("root", str(path.resolve().parent))
    changed = Job.written(path).with_settings(settings).document()
    for setting in settings:
        *sections, key = setting.partition("=")[0].strip().split(".")
        table, new = document, changed
        for section in sections:
            here, new = table.get(section), new[section]
            table[section] = table = dict(here if isinstance(here, Mapping) else new)
        table[key] = new[key]
    text: str = tomli_w.dumps(document)
    return text
