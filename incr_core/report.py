"""The run as one page: `report.html`, self-contained, no scripts, nothing to fetch.

Top to bottom: the headline numbers, the prequential metric against the baselines, the loss terms, where the
time went, the versions and the rows that could not be used. It reads only what any tool can read in the run
directory.
"""

from __future__ import annotations

import datetime
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from incr_core.checkpoint import write_atomically
from incr_core.registry import RunDirectory

__all__ = ["write_report"]

Floats = npt.NDArray[np.float64]

# Okabe and Ito's colours, told apart by colour-blind readers; dashes tell them apart in print.
_OURS = "#0072B2"
_OTHERS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B6B6B")
_DASHES: tuple[Any, ...] = ((0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 3)), (0, (8, 3)), "-")
_INK, _QUIET, _GRID = "#1f2933", "#6b7785", "#e6eaee"

_MOST_POINTS = 1200
_MOST_VERSIONS = 15
_MOST_REASONS = 30


def write_report(run: RunDirectory) -> Path:
    """Write `report.html` for a run, finished or not, and return its path.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with RunDirectory(folder.name).create('name = "demo"', fingerprint="f00d") as run:
    ...     write_report(run).name
    'report.html'
    >>> folder.cleanup()
    """
    summary = _summary(run.path)
    course = _Course.of("ours", run.table("metrics"), summary)
    baselines = [
        _Course.of(file.parent.name, pq.read_table(file), _summary(file.parent))
        for file in sorted((run.path / "baselines").glob("*/metrics.parquet"))
    ]
    name = run.job().get("name")
    title = name if isinstance(name, str) and name else run.path.resolve().name
    sections = [
        _headline(summary, course),
        _section(
            f"{_words(course.metric)} over time",
            f"Each row is predicted before it is learned. Above: mean over {_increments(course.window)}. "
            "Below: all rows so far.",
            _metric_plot([course, *baselines]),
        )
        if course.has_metric
        else "",
        _section("Loss", f"Mean over {_increments(course.window)}.", _loss_plot(course)) if course.losses else "",
        _section("Speed", "Rows learned per second of work.", _speed_plot(course) + _time_bar(course))
        if course.rows.any()
        else "",
        _versions(run, course),
        _quarantine(run.table("quarantine")),
    ]
    path = run.path / "report.html"
    write_atomically(path, _page(title, _subtitle(summary), "".join(sections)).encode())
    return path


# What happened, as arrays


@dataclass
class _Course:
    """One run's course: arrays over its increments (n,)."""

    name: str
    metric: str
    x: Floats
    """Days since the epoch where increments are named by time, else their numbers."""
    dated: bool
    values: Floats
    totals: Floats
    rows: Floats
    seconds: dict[str, Floats]
    losses: dict[str, Floats]
    versions: Floats
    final: float
    window: int
    label: str
    """The name of the last increment."""

    @classmethod
    def of(cls, name: str, table: pa.Table, summary: Mapping[str, Any]) -> _Course:
        names = table.column_names
        metrics = [column.removeprefix("metric.") for column in names if column.startswith("metric.")]
        metric = summary.get("main_metric") or (metrics[0] if metrics else "")
        times = _times(table["name"].to_pylist()) if "name" in names else None
        totals = _floats(table, f"total.{metric}")
        known = totals[np.isfinite(totals)]
        final = (summary.get("prequential") or {}).get(metric)
        return cls(
            name=name,
            metric=metric,
            x=_floats(table, "increment") if times is None else times,
            dated=times is not None,
            values=_floats(table, f"metric.{metric}"),
            totals=totals,
            rows=np.nan_to_num(_floats(table, "rows_labelled")),
            seconds={
                kind: np.nan_to_num(_floats(table, f"seconds_{kind}"))
                for kind in ("predicting", "learning", "exchanging")
            },
            losses={
                column.removeprefix("loss."): _floats(table, column)
                for column in names
                if column.startswith("loss.") and np.isfinite(_floats(table, column)).any()
            },
            versions=_floats(table, "version"),
            final=float(final if isinstance(final, int | float) else known[-1] if len(known) else np.nan),
            # A fortieth of the run is smooth enough to read and short enough to show drift.
            window=max(1, round(table.num_rows / 40)),
            label=str(table["name"][-1]) if "name" in names and table.num_rows else "",
        )

    @property
    def has_metric(self) -> bool:
        return bool(np.isfinite(self.values).any() or np.isfinite(self.totals).any())


def _floats(table: pa.Table, column: str) -> Floats:
    if column not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return np.asarray(table[column].cast(pa.float64()).to_numpy(), np.float64)


def _times(names: Sequence[Any]) -> Floats | None:
    """Days since the epoch, if every name is a time and they run forward."""
    try:
        times = [datetime.datetime.fromisoformat(name).replace(tzinfo=None) for name in names if "-" in name]
    except (TypeError, ValueError):
        return None
    days = np.array(times, "datetime64[us]").astype(np.int64) / 86_400e6
    ordered = len(days) == len(names) and len(days) > 0 and bool((np.diff(days) >= 0).all())
    return np.asarray(days, np.float64) if ordered else None


def _rolling(values: Floats, weights: Floats, window: int) -> Floats:
    """The weighted mean over the last `window` increments; NaN where none of them has a value."""
    known = np.isfinite(values) & (weights > 0)
    weight = _window_sum(np.where(known, weights, 0.0), window)
    total = _window_sum(np.where(known, values * weights, 0.0), window)
    seen = _window_sum(known.astype(np.float64), window) > 0
    mean = np.full(len(values), np.nan)
    np.divide(total, weight, out=mean, where=seen)
    return mean


def _window_sum(values: Floats, window: int) -> Floats:
    sums = np.cumsum(np.concatenate([np.zeros(window), values]))
    return np.asarray(sums[window:] - sums[:-window], np.float64)


# Plots


def _metric_plot(courses: Sequence[_Course]) -> str:
    ours = courses[0]
    figure, (above, below) = _figure(height=5.6, rows=2)
    styles = [_style(i, course.name) for i, course in enumerate(courses)]
    for axes, smooth in ((above, True), (below, False)):
        ends = []
        for course, style in zip(courses, styles, strict=True):
            if course.dated != ours.dated:
                continue
            y = _rolling(course.values, course.rows, course.window) if smooth else course.totals
            last = _line(axes, course.x, y, **style)
            if last is not None:
                text = course.name if smooth else f"{course.name} {course.final:.3f}"
                ends.append((last, text, style["color"], course is ours))
        _room(axes)
        _label_ends(axes, ends)
    above.set_ylabel(f"{_words(ours.metric)}, recent")
    below.set_ylabel(f"{_words(ours.metric)}, so far")
    _x_axis(below, ours)
    return _svg(figure, f"{_words(ours.metric)} over time")


def _loss_plot(course: _Course) -> str:
    figure, (axes,) = _figure(height=2.7)
    ends = []
    spread: list[float] = []
    for i, (name, values) in enumerate(course.losses.items()):
        y = _rolling(values, course.rows, course.window)
        spread.extend(y[np.isfinite(y)])
        style = _style(i, name)
        last = _line(axes, course.x, y, **{**style, "linewidth": 1.8})
        if last is not None:
            ends.append((last, f"{name} {last:.3g}", style["color"], i == 0))
    if min(spread) > 0 and max(spread) > 100 * min(spread):
        axes.set_yscale("log")
    _room(axes)
    _label_ends(axes, ends)
    axes.set_ylabel("loss")
    _x_axis(axes, course)
    return _svg(figure, "Loss over time")


def _speed_plot(course: _Course) -> str:
    figure, (axes,) = _figure(height=2.3)
    seconds = _window_sum(sum(course.seconds.values(), np.zeros(len(course.x))), course.window)
    rows = _window_sum(course.rows, course.window)
    speed = np.divide(rows, seconds, out=np.full(len(rows), np.nan), where=(seconds > 0) & (rows > 0))
    last = _line(axes, course.x, speed, color=_OURS, linewidth=1.8, linestyle="-", zorder=3)
    axes.set_ylim(0, 1.15 * float(np.nanmax(speed, initial=0.0)) or 1.0)
    if last is not None:
        _label_ends(axes, [(last, f"{_count(last)} rows/s", _OURS, True)])
    axes.yaxis.set_major_formatter(lambda value, _: _count(value))
    axes.set_ylabel("rows per second")
    _x_axis(axes, course)
    return _svg(figure, "Rows per second over time")


def _figure(height: float, rows: int = 1) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(9.6, height))
    # The same margins everywhere, so that the plots line up; the right one is for the lines' names.
    figure.subplots_adjust(left=0.075, right=0.81, top=1 - 0.12 / height, bottom=0.45 / height, hspace=0.12)
    grid = figure.subplots(rows, 1, sharex=True, squeeze=False)
    for axes in grid[:, 0]:
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color("#c5ccd3")
        axes.tick_params(colors=_QUIET, labelsize=9, length=0, pad=6)
        axes.yaxis.label.set_color(_QUIET)
        axes.yaxis.label.set_fontsize(9)
        axes.locator_params(axis="y", nbins=5)
    return figure, list(grid[:, 0])


def _style(i: int, name: str) -> dict[str, Any]:
    if i == 0:
        return {"color": _OURS, "linewidth": 2.6, "linestyle": "-", "zorder": 4}
    k = (i - 1) % len(_OTHERS)
    return {"color": _OTHERS[k], "linewidth": 1.3, "linestyle": _DASHES[k], "zorder": 3}


def _line(axes: Axes, x: Floats, y: Floats, **style: Any) -> float | None:
    """Draw what is known of y(x), thinned to what a screen can show; return the last value."""
    known = np.flatnonzero(np.isfinite(y) & np.isfinite(x))
    if not len(known):
        return None
    step = -(-len(known) // _MOST_POINTS)
    # Counted from the end, so that the last point stays.
    shown = known[::-1][::step][::-1]
    if len(shown) < 3:
        style |= {"marker": "o", "markersize": 5}
    axes.plot(x[shown], y[shown], solid_capstyle="round", **style)
    return float(y[known[-1]])


def _room(axes: Axes) -> None:
    axes.margins(y=0.12)
    axes.autoscale_view()


def _label_ends(axes: Axes, ends: Iterable[tuple[float, str, str, bool]]) -> None:
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
            _short(text).replace("$", r"\$"),
            xy=(1, height),
            xycoords="axes fraction",
            xytext=(8, 0),
            textcoords="offset points",
            annotation_clip=False,
        )
        note.set(color=color, fontsize=9.5, fontweight="bold" if bold else "normal", va="center")


def _x_axis(axes: Axes, course: _Course) -> None:
    axes.margins(x=0.01)
    if course.dated:
        locator = AutoDateLocator(minticks=3, maxticks=9)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    else:
        axes.set_xlabel("increment", color=_QUIET, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))
    if len(course.x) == 1:
        axes.set_xticks(course.x.tolist(), [course.label])
    axes.xaxis.get_offset_text().set_color(_QUIET)


def _svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    # Text stays text: smaller, selectable, and in the reader's own font.
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    return drawing.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


# Sections


def _headline(summary: Mapping[str, Any], course: _Course) -> str:
    cards = [
        (_words(name), f"{value:.4f}", "prequential", name == course.metric)
        for name, value in (summary.get("prequential") or {}).items()
        if isinstance(value, int | float)
    ]
    cards.sort(key=lambda card: not card[3])
    if "rows_per_second" in summary:
        cards.append(("rows per second", _count(summary["rows_per_second"]), _duration(summary), False))
    for key, word in (("rows_learned", "rows learned"), ("rows_quarantined", "quarantined")):
        if key in summary:
            cards.append((word, _count(summary[key]), _of_rows(summary, key), False))
    if summary.get("bytes_exchanged"):
        cards.append(("exchanged", _size(summary["bytes_exchanged"]), "between workers", False))
    if summary.get("version") is not None:
        digest = str(summary.get("model_sha256", ""))[:12]
        cards.append(("model version", str(summary["version"]), f"sha256 {digest}", False))
    cells = "".join(
        f'<div class="card{" main" if main else ""}"><b>{_text(value)}</b><span>{_text(word)}</span>'
        f"<small>{_text(note)}</small></div>"
        for word, value, note, main in cards
    )
    return f'<section class="cards">{cells}</section>' if cards else ""


def _time_bar(course: _Course) -> str:
    spent = {kind: float(values.sum()) for kind, values in course.seconds.items()}
    total = sum(spent.values())
    if not total:
        return ""
    colours = {"predicting": "#56B4E9", "learning": _OURS, "exchanging": "#E69F00"}
    bars = "".join(
        f'<i style="width:{100 * value / total:.2f}%;background:{colours[kind]}"></i>' for kind, value in spent.items()
    )
    key = "".join(
        f'<span><i style="background:{colours[kind]}"></i>{kind} {100 * value / total:.0f}%</span>'
        for kind, value in spent.items()
        if value
    )
    return f'<div class="bar">{bars}</div><div class="key">{key}</div>'


def _versions(run: RunDirectory, course: _Course) -> str:
    manifests = run.versions()[::-1]
    if not manifests:
        return ""
    shown = [m for i, m in enumerate(manifests) if i < _MOST_VERSIONS or m["champion"]]
    totals = dict(zip(course.versions, course.totals, strict=True))
    rows = [
        [
            f"<b>{m['version']}</b>" + (' <em class="champion">champion</em>' if m["champion"] else ""),
            _text(m.get("name", m.get("increment", ""))),
            _count(m["rows"]),
            _number(totals.get(float(m["version"]), np.nan)),
            _text(m["created"][:19].replace("T", " ")),
            f"<code>{_text(m['model_sha256'][:12])}</code>" + ("" if m["has_weights"] else " <small>pruned</small>"),
        ]
        for m in shown
    ]
    hidden = len(manifests) - len(shown)
    note = (
        f"{_count(hidden)} earlier {'ones are' if hidden > 1 else 'one is'} in the folder versions." if hidden else ""
    )
    head = ["version", "up to", "rows", f"{_words(course.metric)} so far", "committed (UTC)", "model sha256"]
    return _section("Versions", note, _table(head, rows, numeric=(2, 3)))


def _quarantine(table: pa.Table) -> str:
    if not table.num_rows:
        return ""
    if "reason" not in table.column_names:
        return _section("Quarantine", f"{_count(table.num_rows)} rows could not be used.", "")
    order = np.argsort([-count["counts"] for count in table["reason"].value_counts().to_pylist()], kind="stable")
    counts = [table["reason"].value_counts()[int(i)].as_py() for i in order]
    rows = [[_text(count["values"]), _count(count["counts"])] for count in counts[:_MOST_REASONS]]
    note = f"{_count(table.num_rows)} rows could not be used, so none was learned; see quarantine.parquet."
    return _section("Quarantine", note, _table(["reason", "rows"], rows, numeric=(1,)))


def _section(title: str, note: str, body: str) -> str:
    title = title[:1].upper() + title[1:]
    return f"<section><h2>{_text(title)}</h2><p>{_text(note)}</p>{body}</section>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: tuple[int, ...]) -> str:
    def line(tag: str, cells: Iterable[str]) -> str:
        return "<tr>" + "".join(
            f"<{tag}{' class=n' if i in numeric else ''}>{cell}</{tag}>" for i, cell in enumerate(cells)
        ) + "</tr>"  # fmt: skip

    body = "".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', map(_text, head))}</thead><tbody>{body}</tbody></table>"


# Words and numbers


def _summary(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _subtitle(summary: Mapping[str, Any]) -> str:
    parts = [
        f"{summary['engine']} engine" if "engine" in summary else "still running, or stopped before its end",
        _increments(summary["increments"]) if "increments" in summary else "",
        f"seed {summary['seed']}" if "seed" in summary else "",
    ]
    return " · ".join(part for part in parts if part)


def _increments(n: int) -> str:
    return "one increment" if n == 1 else f"{_count(n)} increments"


def _duration(summary: Mapping[str, Any]) -> str:
    seconds = summary.get("wall_seconds")
    if not isinstance(seconds, int | float):
        return ""
    return f"{seconds:.1f} s in all" if seconds < 120 else f"{seconds / 60:.1f} min in all"


def _of_rows(summary: Mapping[str, Any], key: str) -> str:
    if key == "rows_learned" and "rows_predicted" in summary:
        return f"{_count(summary['rows_predicted'])} predicted"
    learned = summary.get("rows_learned")
    return f"{100 * summary[key] / (learned + summary[key]):.2g}% of rows" if learned else ""


def _words(name: str) -> str:
    return {"auc": "AUC", "rmse": "RMSE", "mae": "MAE", "r2": "R²", "log_loss": "log loss"}.get(
        name, name.replace("_", " ")
    )


def _short(text: str, most: int = 26) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _count(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else "–"


def _number(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else "–"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _text(value: object) -> str:
    return html.escape(str(value))


def _page(title: str, subtitle: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title><style>{_STYLE}</style></head>
<body><main><header><h1>{_text(title)}</h1><p>{_text(subtitle)}</p></header>{body}
<footer>written by incr</footer></main></body></html>
"""


_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f6f7f9; color: #1f2933;
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 40px 24px; }
h1 { font-size: 30px; font-weight: 650; letter-spacing: -.02em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; font-weight: 650; margin: 0; }
p { color: #6b7785; margin: 2px 0 14px; }
header p { font-size: 16px; margin-bottom: 24px; }
section { background: #fff; border: 1px solid #e6eaee; border-radius: 12px; padding: 22px 26px; margin-bottom:
18px;
          overflow-x: auto; }
svg { display: block; width: 100%; height: auto;
      font-family: system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(138px, 1fr)); gap: 18px 22px; }
.card b { display: block; font-size: 24px; font-weight: 600; letter-spacing: -.02em; line-height: 1.25;
          font-variant-numeric: tabular-nums; }
.card.main b { color: #0072B2; }
.card span { display: block; }
.card small, small { color: #6b7785; font-size: 12.5px; }
.bar { display: flex; height: 10px; border-radius: 5px; overflow: hidden; margin-top: 14px; }
.key { margin-top: 8px; color: #6b7785; font-size: 13px; }
.key span { margin-right: 18px; }
.key i { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; font-size: 12.5px; color: #6b7785; border-bottom: 1px solid #d7dde3;
} td, th { padding: 7px 14px 7px 0; } td { border-bottom: 1px solid #eef1f4; overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; } .n { text-align: right; padding-right: 26px; white-space: nowrap; }
.champion { font-style: normal; font-size: 12px; font-weight: 600; color: #0072B2; background: #e5f1f8;
            border-radius: 9px; padding: 2px 9px; margin-left: 6px; }
code { font-size: 12.5px; color: #44505c; }
footer { text-align: center; color: #9aa5b1; font-size: 13px; padding-top: 8px; }
"""
