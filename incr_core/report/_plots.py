"""Plots over time: the metric, the losses, the speed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from incr_core.report._course import Course, moving_sum, rolling
from incr_core.report._drawing import (
    draw,
    for_any_screen,
    key,
    label_ends,
    leave_room,
    line_style,
    mark_events,
    mark_versions,
    new_figure,
    svg,
    x_axis,
)
from incr_core.report._style import EVENTS, OURS, QUIET, TRIVIAL
from incr_core.report._words import count, words

__all__ = ["loss_plot", "metric_plot", "speed_plot"]


def metric_plot(courses: Sequence[Course]) -> str:
    """The metric of the first course and of the others: above over some increments, below of all rows so far.

    Grey are the trivial predictions of the first course's rows. Upright lines are events, ticks versions.
    """
    ours = courses[0]
    marks = [(kind, EVENTS.get(kind, QUIET)) for kind in ours.events]
    marks += [("version committed (ticks)", QUIET)] if len(ours.published) else []
    return for_any_screen(lambda narrow: _metric_plot(courses, narrow=narrow)) + (key(marks) if marks else "")


def _metric_plot(courses: Sequence[Course], *, narrow: bool) -> str:
    ours = courses[0]
    figure, (above, below) = new_figure(height=5.6, rows=2, narrow=narrow)
    styles = [line_style(i, course.name) for i, course in enumerate(courses)]
    named: dict[str, str] = {}
    for axes, smooth in ((above, True), (below, False)):
        ends = []
        for course, style in zip(courses, styles, strict=True):
            if course.dated != ours.dated:
                continue
            y = rolling(course.values, course.scored, course.span) if smooth else course.totals
            last = draw(axes, course.x, y, **style)
            if last is not None:
                text = course.name if smooth else f"{course.name} {course.final:.3f}"
                named[course.name] = style["color"]
                ends.append((last, text, style["color"], course is ours))
        for name, (values, totals) in ours.trivial.items():
            y = rolling(values, ours.scored, ours.span) if smooth else totals
            dashes = (0, (1, 2)) if name == "last value" else (0, (5, 2))
            last = draw(axes, ours.x, y, color=TRIVIAL, linewidth=1.1, linestyle=dashes, zorder=2)
            if last is not None:
                named[f"{name} (grey)"] = TRIVIAL
                ends.append((last, name if smooth else f"{name} {last:.3f}", TRIVIAL, False))
        leave_room(axes)
        if not narrow:
            label_ends(axes, ends)
        mark_events(axes, ours)
        mark_versions(axes, ours)
    above.set_ylabel(f"{words(ours.metric)}, recent")
    below.set_ylabel(f"{words(ours.metric)}, so far")
    x_axis(below, ours, narrow=narrow)
    return svg(figure, f"{words(ours.metric)} over time", narrow=narrow) + (key(named.items()) if narrow else "")


def loss_plot(course: Course) -> str:
    """Each loss term over some increments."""
    return for_any_screen(lambda narrow: _loss_plot(course, narrow=narrow))


def _loss_plot(course: Course, *, narrow: bool) -> str:
    figure, (axes,) = new_figure(height=2.7, narrow=narrow)
    ends = []
    spread: list[float] = []
    for i, (name, values) in enumerate(course.losses.items()):
        y = rolling(values, course.rows, course.span)
        spread.extend(y[np.isfinite(y)])
        style = line_style(i, name)
        last = draw(axes, course.x, y, **{**style, "linewidth": 1.8})
        if last is not None:
            ends.append((last, f"{name} {last:.3g}", style["color"], i == 0))
    if min(spread) > 0 and max(spread) > 100 * min(spread):
        axes.set_yscale("log")
    leave_room(axes)
    if not narrow:
        label_ends(axes, ends)
    axes.set_ylabel("loss")
    x_axis(axes, course, narrow=narrow)
    named = key((text, color) for _, text, color, _ in ends) if narrow else ""
    return svg(figure, "Loss over time", narrow=narrow) + named


def speed_plot(course: Course) -> str:
    """Rows learned per second of work."""
    return for_any_screen(lambda narrow: _speed_plot(course, narrow=narrow))


def _speed_plot(course: Course, *, narrow: bool) -> str:
    figure, (axes,) = new_figure(height=2.3, narrow=narrow)
    seconds = moving_sum(sum(course.seconds.values(), np.zeros(len(course.x))), course.span)
    rows = moving_sum(course.rows, course.span)
    speed = np.divide(rows, seconds, out=np.full(len(rows), np.nan), where=(seconds > 0) & (rows > 0))
    last = draw(axes, course.x, speed, color=OURS, linewidth=1.8, linestyle="-", zorder=3)
    axes.set_ylim(0, 1.15 * float(np.nanmax(speed, initial=0.0)) or 1.0)
    if last is not None and not narrow:
        label_ends(axes, [(last, f"{count(last)} rows/s", OURS, True)])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if narrow and value >= 1000 else count(value))
    axes.set_ylabel("rows per second")
    x_axis(axes, course, narrow=narrow)
    return svg(figure, "Rows per second over time", narrow=narrow)
