"""Comparison page of several runs: a table, the metric over time, and the differences between their jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from incr_core.registry import RunDirectory
from incr_core.report._course import Course, read_summary
from incr_core.report._page import html_page
from incr_core.report._sections import html_table, section
from incr_core.report._words import count, escaped, increments, number, words
from incr_core.storage import located, write_atomically

__all__ = ["write_comparison"]


def write_comparison(path: Path, found: Mapping[str, Any]) -> Path:
    """Write a comparison (`runs.Comparison.document`) as a page, self-contained, and return its path."""
    # Matplotlib takes half a second to import.
    from incr_core.report._plots import metric_plot

    runs: Sequence[Mapping[str, Any]] = found["runs"]
    directories = [RunDirectory.open(located(one["path"])) for one in runs]
    courses = [
        Course.of(one["name"], directory.table("metrics"), read_summary(directory.path), directory.table("events"))
        for one, directory in zip(runs, directories, strict=True)
    ]
    first = courses[0]
    shared = [name for name in runs[0]["metrics"] if any(name in one["metrics"] for one in runs[1:])]
    head = ["run", "engine", *map(words, shared), "rows learned", "rows/s", "versions"]
    rows = [
        [
            f"<b>{escaped(one['name'])}</b>",
            escaped(one["engine"]),
            *(number(one["metrics"].get(name, float("nan"))) for name in shared),
            count(one["rows_learned"]),
            count(float("nan") if one["rows_per_second"] is None else one["rows_per_second"]),
            count(one["versions"]),
        ]
        for one in runs
    ]
    settings = [[f"<code>{escaped(name)}</code>", *map(escaped, said)] for name, said in found["settings"].items()]
    body = [
        section(
            "Runs",
            "; ".join(map(escaped, found["cautions"])) or "Each row was predicted before it was learned.",
            html_table(head, rows, numeric=tuple(range(2, len(head)))),
        ),
        section(
            f"{words(first.metric)} over time",
            f"Above: mean over {increments(first.span)}. Below: all rows so far.",
            metric_plot(courses),
        )
        if first.has_metric
        else "",
        section(
            "What differs between their jobs",
            "Settings of the jobs as resolved." if settings else "Nothing.",
            html_table(["setting", *(one["name"] for one in runs)], settings, numeric=()) if settings else "",
        ),
    ]
    write_atomically(path, html_page("Comparison", f"{len(runs)} runs", "".join(body)).encode())
    return path
