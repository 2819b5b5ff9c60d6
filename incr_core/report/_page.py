"""The run as one page: `report.html`, self-contained, no scripts, nothing to fetch.

Top to bottom: the headline numbers, the prequential metric against the baselines, the loss terms, where the
time went, the clients of a federated run, what happened, the versions and the rows that could not be used. It
reads only what any tool can read in the run directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from incr_core.registry import RunDirectory
from incr_core.report._caution import caution
from incr_core.report._course import Course, floats, read_summary
from incr_core.report._sections import events, headline, learned_from, quarantine, section, time_bar, versions
from incr_core.report._slices import slices
from incr_core.report._style import STYLE
from incr_core.report._words import escaped, increments, words
from incr_core.storage import expose, write_atomically

__all__ = ["write_report"]


def write_report(run: RunDirectory) -> Path:
    """Write `report.html` for a run, finished or not, and return its path.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with RunDirectory.create(folder.name, 'name = "demo"', fingerprint="f00d") as run:
    ...     write_report(run).name
    'report.html'
    >>> folder.cleanup()
    """
    # Matplotlib takes half a second to import.
    from incr_core.report._clients import clients
    from incr_core.report._plots import loss_plot, metric_plot, speed_plot

    summary = read_summary(run.path)
    happened, learned = run.table("events"), run.table("metrics")
    course = Course.of("ours", learned, summary, happened)
    baselines = [
        Course.of(file.parent.name, RunDirectory.open(file.parent).table("metrics"), read_summary(file.parent))
        for file in sorted((run.path / "baselines").glob("*/job.toml"))
    ]
    name = run.job().get("name")
    title = name if isinstance(name, str) and name else run.path.resolve().name
    sections = [
        headline(summary, course),
        section(
            f"{words(course.metric)} over time",
            f"Each row is predicted before it is learned. Above: mean over {increments(course.span)}. "
            "Below: all rows so far.",
            metric_plot([course, *baselines]),
        )
        if course.has_metric
        else "",
        section("Loss", f"Mean over {increments(course.span)}.", loss_plot(course)) if course.losses else "",
        section("Speed", "Rows learned per second of work.", speed_plot(course) + time_bar(course))
        if course.rows.any()
        else "",
        clients(run.table("clients"), course, floats(learned, "increment")),
        slices(learned),
        learned_from(run),
        events(happened),
        versions(run, course),
        quarantine(run.table("quarantine")),
    ]
    path = run.path / "report.html"
    write_atomically(path, html_page(title, subtitle(summary), "".join(sections)).encode())
    expose(path)
    return path


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
