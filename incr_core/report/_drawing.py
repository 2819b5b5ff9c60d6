"""Drawing of SVG figures: a wide version whose lines are labelled at their ends, and a narrow one for phones."""

from __future__ import annotations

import html
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from incr_core.report._course import Course, Floats
from incr_core.report._style import DASHES, EVENTS, GRID, OTHERS, OURS, QUIET
from incr_core.report._words import escaped, short
from incr_core.shown import shown

__all__ = [
    "draw",
    "for_any_screen",
    "key",
    "label_ends",
    "leave_room",
    "line_style",
    "literal",
    "mark_events",
    "mark_versions",
    "new_figure",
    "new_square",
    "quiet",
    "svg",
    "x_axis",
]

_MOST_POINTS = 1200
_MOST_MARKS = 200


def for_any_screen(plot: Callable[[bool], str]) -> str:
    """Both versions of a plot, of which the page shows the one that fits. plot(narrow) draws one."""
    return f'<div class="wide">{plot(False)}</div><div class="narrow">{plot(True)}</div>'


def new_figure(height: float, rows: int = 1, *, narrow: bool = False) -> tuple[Figure, Sequence[Axes]]:
    """A figure of `rows` plots above one another, 9.6 inches wide and `height` high; narrow: 4.5 inches wide."""
    figure = Figure(figsize=(4.5 if narrow else 9.6, height))
    # The same margins everywhere, so that the plots line up; the right one is for the lines' names.
    left, right = (0.135, 0.985) if narrow else (0.075, 0.81)
    figure.subplots_adjust(left=left, right=right, top=1 - 0.12 / height, bottom=0.5 / height, hspace=0.12)
    grid = figure.subplots(rows, 1, sharex=True, squeeze=False)
    for axes in grid[:, 0]:
        quiet(axes)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.locator_params(axis="y", nbins=5)
    return figure, list(grid[:, 0])


def new_square(x: str, y: str) -> tuple[Figure, Axes]:
    """A small square plot of two shares, with the labels of its axes."""
    figure = Figure(figsize=(3.7, 3.5))
    figure.subplots_adjust(left=0.15, right=0.97, top=0.97, bottom=0.14)
    axes = figure.subplots()
    quiet(axes)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y, xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    return figure, axes


def quiet(axes: Axes) -> None:
    """Apply the frame of one line and the grey tick labels."""
    # First, because each tick that exists by then is changed. Lines of no length would still be drawn one by one.
    axes.tick_params(left=False, bottom=False, length=0, colors=QUIET, labelsize=9, pad=6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#c5ccd3")
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=QUIET, fontsize=9)


def key(lines: Iterable[tuple[str, str]]) -> str:
    """The legend: names and their colours."""
    cells = (f'<span><i style="background:{color}"></i>{escaped(name)}</span>' for name, color in lines)
    return f'<div class="key">{"".join(cells)}</div>'


def line_style(i: int, name: str) -> dict[str, Any]:
    """The style of the i-th line; the first is the run itself."""
    if i == 0:
        return {"color": OURS, "linewidth": 2.6, "linestyle": "-", "zorder": 4}
    k = (i - 1) % len(OTHERS)
    return {"color": OTHERS[k], "linewidth": 1.3, "linestyle": DASHES[k], "zorder": 3}


def draw(axes: Axes, x: Floats, y: Floats, **style: Any) -> float | None:
    """Draw the known values of y(x), thinned to the resolution of a screen. Return the last value."""
    known = np.flatnonzero(np.isfinite(y) & np.isfinite(x))
    if not len(known):
        return None
    step = -(-len(known) // _MOST_POINTS)
    # Counted from the end, so that the last point stays.
    drawn = known[::-1][::step][::-1]
    if len(drawn) < 3:
        style |= {"marker": "o", "markersize": 5}
    axes.plot(x[drawn], y[drawn], solid_capstyle="round", **style)
    return float(y[known[-1]])


def leave_room(axes: Axes) -> None:
    """Keep lines off the upper and lower edge."""
    axes.margins(y=0.12)
    axes.autoscale_view()


def label_ends(axes: Axes, ends: Iterable[tuple[float, str, str, bool]]) -> None:
    """Name the lines where they end, moved apart where they would overlap."""
    transform = axes.transData + axes.transAxes.inverted()
    placed = sorted((float(transform.transform((0.0, y))[1]), text, color, bold) for y, text, color, bold in ends)
    # Labels are 9.5 points high; the axes' height is in pixels.
    gap = 1.35 * 9.5 / 72 * axes.figure.dpi / axes.bbox.height
    heights = np.array([height for height, *_ in placed])
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    # Pushing up may have run over the top: slide back down from there.
    for i in range(len(heights) - 1, -1, -1):
        ceiling = 0.98 if i == len(heights) - 1 else heights[i + 1] - gap
        heights[i] = min(heights[i], ceiling)
    for height, (_, text, color, bold) in zip(heights, placed, strict=True):
        note = axes.annotate(
            literal(short(text)),
            xy=(1, height),
            xycoords="axes fraction",
            xytext=(8, 0),
            textcoords="offset points",
            annotation_clip=False,
        )
        note.set(color=color, fontsize=9.5, fontweight="bold" if bold else "normal", va="center")


def mark_events(axes: Axes, course: Course) -> None:
    """A thin upright line where something happened, in the colour of its kind."""
    for kind, places in course.events.items():
        for place in places[-_MOST_MARKS:]:
            axes.axvline(place, color=EVENTS.get(kind, QUIET), linewidth=1.0, alpha=0.7, zorder=2, gid=f"event {kind}")


def mark_versions(axes: Axes, course: Course) -> None:
    """A short tick on the lower edge where a version was committed."""
    places = course.published
    for place in places[:: -(-len(places) // _MOST_MARKS) or 1]:
        axes.axvline(place, ymax=0.035, color=QUIET, linewidth=1.2, zorder=2, gid="version")


def x_axis(axes: Axes, course: Course, *, narrow: bool = False) -> None:
    """Label the increments, by date where they have one."""
    axes.margins(x=0.01)
    most = 5 if narrow else 9
    if course.dated:
        locator = AutoDateLocator(minticks=3, maxticks=most)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    else:
        axes.set_xlabel("increment", color=QUIET, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=most, integer=True))
    if len(course.x) == 1:
        axes.set_xticks(course.x.tolist(), [literal(course.label)])
    axes.xaxis.get_offset_text().set_color(QUIET)


def literal(text: str) -> str:
    """A name with its formula characters escaped, so that matplotlib prints it literally."""
    return shown(text).replace("$", r"\$")


def svg(figure: Figure, label: str, *, narrow: bool = False) -> str:
    """The figure as an <svg> element that a screen reader calls `label`.

    narrow: whether this is the narrow version of a wide figure with the same label. The page shows one of the two, and
    its references must not resolve to elements of the hidden one.
    """
    buffer, salt = io.StringIO(), f"{label}, narrow" if narrow else label
    # Text stays text: smaller, selectable, and in the reader's own font, which may have letters that ours lacks.
    with (
        warnings.catch_warnings(action="ignore", category=UserWarning),
        matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": salt}),
    ):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    return drawing.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
