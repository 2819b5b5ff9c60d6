"""The progress bar of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from incr_core.job import Job
from incr_core.loop import Progress
from incr_core.shown import shown

__all__ = ["progress"]


@contextmanager
def progress(job: Job, quiet: bool = False) -> Iterator[Callable[[str, Progress], None] | None]:
    """Show increment, rows/s, metric and time left on standard error if it is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    total = job.rows_in_stream()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),  # a name in brackets is not markup
        BarColumn(bar_width=24),
        TextColumn(
            "{task.fields[increment]:16}  {task.fields[rate]:>9,.0f} rows/s  {task.fields[metric]}", markup=False
        ),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def on_progress(name: str, done: Progress) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(shown(name), total=total, increment="", rate=0.0, metric="")
            bar.update(
                tasks[name],
                completed=done.rows,
                increment=shown(done.increment),
                rate=done.rows_per_second,
                metric=f"{shown(done.metric)} {done.value:.4f}",
            )

        yield on_progress
