"""The report of a run as one page: `report.html`, self-contained, without scripts or external resources.

Top to bottom: the headline numbers, the job, the prequential metric against the baselines and trivial predictions,
the classes, tasks, the loss terms, where the time went, the clients of a federated run, what happened, the versions and
the rows that could not be used. All is read from the run directory: tables, summary and manifests, and of the newest
version's state the sums over all predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from incr_core.errors import IncrError
from incr_core.metrics import Statistics
from incr_core.registry import RunDirectory, loop_state
from incr_core.report._caution import caution
from incr_core.report._course import Course, floats, read_summary
from incr_core.report._sections import events, headline, quarantine, section, time_bar, versions
from incr_core.report._slices import slices
from incr_core.report._style import STYLE
from incr_core.report._tasks import TaskMatrix, tasks
from incr_core.report._what_was_run import what_was_run
from incr_core.report._words import escaped, increments, words
from incr_core.storage import expose, write_atomically

__all__ = ["write_report"]


def write_report(run: RunDirectory, matrix: TaskMatrix | None = None) -> Path:
    """Write `report.html` for a run, finished or not, and return its path.

    matrix: the metric of each version on each task, if it was measured.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with RunDirectory.create(folder.name, 'name = "demo"', fingerprint="f00d") as run:
    ...     write_report(run).name
    'report.html'
    >>> folder.cleanup()
    """
    # Matplotlib takes half a second to import.
    from incr_core.report._classes import classes
    from incr_core.report._clients import clients
    from incr_core.report._plots import loss_plot, metric_plot, speed_plot

    summary = read_summary(run.path)
    happened, learned = run.table("events"), run.table("metrics")
    course = Course.of("ours", learned, summary, happened)
    compared = [
        (file.parent.name, RunDirectory.open(file.parent).table("metrics"), read_summary(file.parent))
        for file in sorted((run.path / "baselines").glob("*/job.toml"))
    ]
    job = run.job()
    name = job.get("name")
    title = name if isinstance(name, str) and name else run.path.resolve().name

    def over_time(metric: str | None, note: str) -> str:
        """The plot of a metric, the main one where none is named."""
        ours = Course.of("ours", learned, summary, happened, metric)
        if not ours.has_metric:
            return ""
        note += f" Above: mean over {increments(ours.span)}. Below: all rows so far."
        others = [Course.of(*one, metric=metric) for one in compared]
        return section(f"{words(ours.metric)} over time", note, metric_plot([ours, *others]))

    trivial = not course.trivial and any(column.startswith("trivial.") for column in learned.column_names)
    sections = [
        headline(summary, course),
        what_was_run(run, summary),
        over_time(None, "Each row is predicted before it is learned."),
        over_time("accuracy", "Grey: what a constant answer has, the majority class or the last label known.")
        if trivial
        else "",
        classes(job, _statistics(run)),
        "" if matrix is None else tasks(matrix),
        section("Loss", f"Mean over {increments(course.span)}.", loss_plot(course)) if course.losses else "",
        section("Speed", "Rows learned per second of work.", speed_plot(course) + time_bar(course))
        if course.rows.any()
        else "",
        clients(run.table("clients"), course, floats(learned, "increment")),
        slices(learned),
        events(happened),
        versions(run, course),
        quarantine(run.table("quarantine")),
    ]
    path = run.path / "report.html"
    write_atomically(path, html_page(title, subtitle(summary), "".join(sections)).encode())
    expose(path)
    return path


def _statistics(run: RunDirectory) -> Statistics:
    """The sums over all rows predicted so far, from the newest version's state; {} if no version has a state."""
    latest = run.latest()
    if latest is None:
        return {}
    try:
        statistics: Statistics = loop_state(run.path, latest)["totals"]["statistics"]
    except (IncrError, KeyError):
        return {}
    return statistics


def subtitle(summary: Mapping[str, Any]) -> str:
    parts = [
        f"{summary['engine']} engine" if "engine" in summary else "still running, or stopped before its end",
        increments(summary["increments"]) if "increments" in summary else "",
        f"seed {summary['seed']}" if "seed" in summary else "",
        caution(summary),
    ]
    return " · ".join(part for part in parts if part)


def html_page(title: str, subtitle: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title><style>{STYLE}</style></head>
<body><main><header><h1>{escaped(title)}</h1><p>{escaped(subtitle)}</p></header>{body}
<footer>written by incr</footer></main></body></html>
"""
