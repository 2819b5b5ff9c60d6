"""What is drawn: the metric, the losses, the speed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from incr_core.report._course import Course, moving_sum, rolling
from incr_core.report._drawing import draw, label_ends, leave_room, line_style, mark_events, new_figure, svg, x_axis
from incr_core.report._style import OURS
from incr_core.report._words import count, words

__all__ = ["loss_plot", "metric_plot", "speed_plot"]


def metric_plot(courses: Sequence[Course]) -> str:
    """The metric of the first course and of the others: above over some increments, below of all rows so far."""
    ours = courses[0]
    figure, (above, below) = new_figure(height=5.6, rows=2)
    styles = [line_style(i, course.name) for i, course in enumerate(courses)]
    for axes, smooth in ((above, True), (below, False)):
        ends = []
        for course, style in zip(courses, styles, strict=True):
            if course.dated != ours.dated:
                continue
            y = rolling(course.values, course.scored, course.span) if smooth else course.totals
            last = draw(axes, course.x, y, **style)
            if last is not None:
                text = course.name if smooth else f"{course.name} {course.final:.3f}"
                ends.append((last, text, style["color"], course is ours))
        leave_room(axes)
        label_ends(axes, ends)
        mark_events(axes, ours)
    above.set_ylabel(f"{words(ours.metric)}, recent")
    below.set_ylabel(f"{words(ours.metric)}, so far")
    x_axis(below, ours)
    return svg(figure, f"{words(ours.metric)} over time")


def loss_plot(course: Course) -> str:
    """Each loss term over some increments."""
    figure, (axes,) = new_figure(height=2.7)
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
    label_ends(axes, ends)
    axes.set_ylabel("loss")
    x_axis(axes, course)
    return svg(figure, "Loss over time")


def speed_plot(course: Course) -> str:
    """Rows learned per second of work."""
    figure, (axes,) = new_figure(height=2.3)
    seconds = moving_sum(sum(course.seconds.values(), np.zeros(len(course.x))), course.span)
    rows = moving_sum(course.rows, course.span)
    speed = np.divide(rows, seconds, out=np.full(len(rows), np.nan), where=(seconds > 0) & (rows > 0))
    last = draw(axes, course.x, speed, color=OURS, linewidth=1.8, linestyle="-", zorder=3)
    axes.set_ylim(0, 1.15 * float(np.nanmax(speed, initial=0.0)) or 1.0)
    if last is not None:
        label_ends(axes, [(last, f"{count(last)} rows/s", OURS, True)])
    axes.yaxis.set_major_formatter(lambda value, _: count(value))
    axes.set_ylabel("rows per second")
    x_axis(axes, course)
    return svg(figure, "Rows per second over time")
