"""The accuracy matrix: the main metric of each version on each task, measured on rows with a task column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from incr_core.report._course import Floats
from incr_core.report._sections import html_table, section
from incr_core.report._words import escaped, number, words

__all__ = ["TaskMatrix", "tasks"]


@dataclass(frozen=True)
class TaskMatrix:
    """The main metric of versions on tasks.

    metric: name of the metric. higher_is_better: its direction. versions: version numbers, oldest first. tasks: task
    numbers. values: (versions, tasks), NaN where a version could not predict a task. rows: the source of the rows.

    >>> matrix = TaskMatrix("accuracy", True, [1, 2], [0, 1], np.array([[0.9, 0.5], [0.7, 0.8]]), "test.parquet")
    >>> round(matrix.average, 3), round(matrix.forgetting, 3)
    (0.75, 0.1)
    """

    metric: str
    higher_is_better: bool
    versions: Sequence[int]
    tasks: Sequence[int]
    values: Floats
    rows: str

    @property
    def average(self) -> float:
        """Mean over tasks at the last version: mean_i R[T, i] (Lopez-Paz and Ranzato 2017)."""
        return float(self.values[-1].mean())

    @property
    def forgetting(self) -> float:
        """Mean distance of the tasks from their best version: mean_i (max_t R[t, i] - R[T, i]) (Chaudhry et al. 2018).

        For an error, the minimum is the best. The last task counts too, since later versions can forget it.
        """
        sign = 1.0 if self.higher_is_better else -1.0
        better = sign * self.values
        return float((better.max(axis=0) - better[-1]).mean())


def tasks(matrix: TaskMatrix) -> str:
    """A section on the tasks."""
    low, high = float(np.nanmin(matrix.values)), float(np.nanmax(matrix.values))
    lines = [
        [f"<b>{version}</b>", *(_cell(value, low, high, matrix.higher_is_better) for value in row), number(row.mean())]
        for version, row in zip(matrix.versions, matrix.values, strict=True)
    ]
    note = (
        f"The {words(matrix.metric)} of each version on the rows of each task in {matrix.rows}. Last version: mean "
        f"over tasks {number(matrix.average)}. Forgetting: {number(matrix.forgetting)}, how far tasks are from "
        "their best version, on average."
    )
    head = ["version", *(f"task {task}" for task in matrix.tasks), "mean"]
    return section("Tasks", note, html_table(head, lines, numeric=tuple(range(1, len(head)))))


def _cell(value: float, low: float, high: float, higher: bool) -> str:
    if not np.isfinite(value):
        return "–"
    share = (value - low) / (high - low) if high > low else 1.0
    strength = share if higher else 1 - share
    shade = f"background:rgba(0,114,178,{0.5 * strength:.2f});padding:3px 7px"
    return f'<span style="{shade}">{escaped(number(value))}</span>'
