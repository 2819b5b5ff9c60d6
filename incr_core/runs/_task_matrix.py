"""Metrics of a run's versions on the rows of each task."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from incr_core.errors import ArgumentError
from incr_core.job import Job
from incr_core.report import TaskMatrix
from incr_core.runs._version import Version
from incr_core.runs._version_record import VersionRecord
from incr_core.storage import told

__all__ = ["task_matrix"]

MOST_VERSIONS = 20
"""Maximum number of versions that are measured. Of more, evenly spaced ones are, including the last."""


def task_matrix(directory: Path, job: Job, rows: str | Path) -> TaskMatrix:
    """The main metric of every version that keeps its weights, on the labelled rows of each task in a file.

    Args:
        directory: The run's.
        job: Its job, with `features.task`.
        rows: A file of rows with labels and tasks, which no version should have learned.

    Returns:
        The matrix, a line for each version and a column for each task.

    Raises:
        ArgumentError: The job has no tasks, or the rows have none.
    """
    column = job.features.task
    if column is None:
        raise ArgumentError("tasks: expected a run whose job names features.task, got one without; leave --tasks out")
    kept = [version.number for version in VersionRecord.all_of(directory) if version.has_weights]
    places = np.unique(np.linspace(0, len(kept) - 1, min(len(kept), MOST_VERSIONS)).round().astype(int))
    numbers = [kept[place] for place in places]
    measured = [Version.load(directory, number, job).evaluate_tasks(rows) for number in numbers]
    tasks = sorted({task for one in measured for task in one})
    if not tasks:
        raise ArgumentError(f"tasks: expected rows with the column {column}, got {rows}, which lacks it; add it")
    objective = job.objective()
    values = np.array([[one.get(task, np.nan) for task in tasks] for one in measured])
    return TaskMatrix(
        objective.main_metric, objective.higher_is_better, numbers, tasks, values, Path(told(Path(rows))).name
    )
