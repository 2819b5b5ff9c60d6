"""Report section on the clients of a federated run: a small plot of each, the worst first, and a table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from incr_core.report._course import Course, Floats, rolling
from incr_core.report._drawing import draw, for_any_screen, literal, quiet, svg
from incr_core.report._sections import html_table, section
from incr_core.report._standings import Standing, standings
from incr_core.report._style import GRID, OURS
from incr_core.report._words import count, escaped, number, short, size, words

__all__ = ["clients"]

_COLUMNS = {False: 4, True: 2}
"""Number of plots per row, by whether the screen is narrow."""

_MOST_PLOTS = 12
_MOST_ROWS = 30


def clients(table: pa.Table, course: Course, increments: Floats) -> str:
    """The section on the clients; empty if the run has none. increments: the numbers of the increments."""
    found = standings(table)
    if not found:
        return ""
    shown = [one for one in found if np.isfinite(one.recent).any()][:_MOST_PLOTS]
    title = f"{count(len(found))} client{'s' * (len(found) > 1)}"
    note = (
        f"The worst by {words(found[0].metric)} first. Plots: its recent value, beside that of all. Weight: share in "
        "the mean. Norm: how far an update moves the weights; drift: how far that is from the mean. Forgetting: recent "
        "value against the best so far. Learned: of the increments in which it had rows. Sent, received: bytes of "
        "weights and statistics. All are in the folder clients."
    )
    plots = for_any_screen(lambda narrow: _multiples(shown, course, increments, narrow=narrow)) if shown else ""
    return section(title, note, plots + _table(found))


def _table(found: list[Standing]) -> str:
    rows = [
        [
            escaped(one.client),
            number(one.value),
            number(one.forgetting),
            count(one.rows_learned),
            _percent(one.weight),
            _digits(one.norm),
            _digits(one.drift),
            _percent(one.participation),
            size(one.bytes_up),
            size(one.bytes_down),
            count(one.failures) + (f" <small>{escaped(short(one.failure, 60))}</small>" if one.failure else ""),
        ]
        for one in found[:_MOST_ROWS]
    ]
    head = ["client", words(found[0].metric), "forgetting", "rows", "weight", "norm", "drift", "learned"]
    head += ["sent", "received", "failures"]
    left = len(found) - len(rows)
    return html_table(head, rows, numeric=tuple(range(1, 10))) + (
        f"<p>and {count(left)} better ones</p>" if left else ""
    )


def _multiples(shown: list[Standing], course: Course, increments: Floats, *, narrow: bool) -> str:
    columns = _COLUMNS[narrow]
    lines = -(-len(shown) // columns)
    height = 1.55 * lines + 0.35
    figure = Figure(figsize=(4.5 if narrow else 9.6, height))
    figure.subplots_adjust(
        left=0.11 if narrow else 0.05, right=0.99, top=1 - 0.3 / height, bottom=0.4 / height, hspace=0.45, wspace=0.12
    )
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    everybody = rolling(course.values, course.scored, course.span)
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_visible(False)
            continue
        one = shown[place]
        quiet(axes)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.tick_params(labelsize=8, labelbottom=place + columns >= len(shown))
        draw(axes, course.x, everybody, color="#b4bdc6", linewidth=1.0)
        draw(axes, np.interp(one.increments, increments, course.x), one.recent, color=OURS, linewidth=1.6)
        axes.set_title(f"{literal(short(one.client, 20))}  {number(one.value)}", fontsize=9, loc="left", pad=4)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
        if course.dated:
            locator = AutoDateLocator(minticks=2, maxticks=4)  # type: ignore[no-untyped-call]
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))  # type: ignore[no-untyped-call]
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    return svg(figure, f"{words(course.metric)} of each client over time", narrow=narrow)


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%" if np.isfinite(value) else "–"


def _digits(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "–"
