"""Report sections of text and tables: the headline, the versions, the events, the quarantine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from incr_core.registry import RunDirectory
from incr_core.report._course import Course
from incr_core.report._style import EVENTS, OURS, QUIET
from incr_core.report._words import count, escaped, number, size, words

__all__ = ["events", "headline", "quarantine", "section", "time_bar", "versions"]

_MOST_VERSIONS = 15
_MOST_REASONS = 30
_MOST_EVENTS = 30


def headline(summary: Mapping[str, Any], course: Course) -> str:
    """The numbers of the summary as cards, the main metric first."""
    cards = [
        (words(name), f"{value:.4f}", "prequential", name == course.metric)
        for name, value in (summary.get("prequential") or {}).items()
        if isinstance(value, int | float)
    ]
    cards.sort(key=lambda card: not card[3])
    if "rows_per_second" in summary:
        cards.append(("rows per second", count(summary["rows_per_second"]), _duration(summary), False))
    for key, word in (("rows_learned", "rows learned"), ("rows_quarantined", "quarantined")):
        if key in summary:
            cards.append((word, count(summary[key]), _of_rows(summary, key), False))
    if summary.get("bytes_exchanged"):
        cards.append(("exchanged", size(summary["bytes_exchanged"]), "between workers", False))
    if summary.get("version") is not None:
        digest = str(summary.get("model_sha256", ""))[:12]
        cards.append(("model version", str(summary["version"]), f"sha256 {digest}", False))
    cells = "".join(
        f'<div class="card{" main" if main else ""}"><b>{escaped(value)}</b><span>{escaped(word)}</span>'
        f"<small>{escaped(note)}</small></div>"
        for word, value, note, main in cards
    )
    return f'<section class="cards">{cells}</section>' if cards else ""


def time_bar(course: Course) -> str:
    """The shares of the run's time, as one bar."""
    spent = {kind: float(values.sum()) for kind, values in course.seconds.items()}
    total = sum(spent.values())
    if not total:
        return ""
    colours = {"predicting": "#56B4E9", "learning": OURS, "exchanging": "#E69F00"}
    bars = "".join(
        f'<i style="width:{100 * value / total:.2f}%;background:{colours[kind]}"></i>' for kind, value in spent.items()
    )
    key = "".join(
        f'<span><i style="background:{colours[kind]}"></i>{kind} {100 * value / total:.0f}%</span>'
        for kind, value in spent.items()
        if value
    )
    return f'<div class="bar">{bars}</div><div class="key">{key}</div>'


def versions(run: RunDirectory, course: Course) -> str:
    """The newest versions and the champion."""
    manifests = run.versions()[::-1]
    if not manifests:
        return ""
    shown = [m for i, m in enumerate(manifests) if i < _MOST_VERSIONS or m["champion"]]
    totals = dict(zip(course.versions, course.totals, strict=True))
    judged = any("gate" in m for m in shown)
    held_back = any("holdout" in m.get("gate", {}) for m in shown)
    rows = [
        [
            f"<b>{m['version']}</b>" + _marks(m),
            escaped(m.get("name", m.get("increment", ""))),
            count(m["rows"]),
            number(totals.get(float(m["version"]), np.nan)),
            *([_against_champion(m.get("gate", {}))] if judged else []),
            *([_against_champion(m.get("gate", {}).get("holdout", {}))] if held_back else []),
            escaped(m["created"][:19].replace("T", " ")),
            f"<code>{escaped(m['model_sha256'][:12])}</code>" + ("" if m["has_weights"] else " <small>pruned</small>"),
        ]
        for m in shown
    ]
    hidden = len(manifests) - len(shown)
    note = (
        f"{count(hidden)} earlier {'ones are' if hidden > 1 else 'one is'} in the folder manifests." if hidden else ""
    )
    head = ["version", "up to", "rows", f"{words(course.metric)} so far"]
    head += ["loss on the past, champion's"] if judged else []
    head += ["loss on rows held back, champion's"] if held_back else []
    numeric = tuple(range(2, len(head)))
    return section("Versions", note, html_table([*head, "committed (UTC)", "model sha256"], rows, numeric, "lines"))


def _marks(manifest: Mapping[str, Any]) -> str:
    """The marks of a version: champion, or held back by the gate."""
    mark = ' <em class="champion">champion</em>' if manifest["champion"] else ""
    return mark if manifest.get("gate", {}).get("promoted", True) else f"{mark} <small>held</small>"


def _against_champion(judged: Mapping[str, Any]) -> str:
    """The mean losses of challenger and champion on the same rows."""
    return f"{number(judged['challenger'])}, {number(judged['champion'])}" if "challenger" in judged else ""


def events(table: pa.Table) -> str:
    """The newest events of the run."""
    if not table.num_rows:
        return ""
    shown = table.slice(max(0, table.num_rows - _MOST_EVENTS)).to_pylist()[::-1]
    rows = [
        [
            f'<i class="dot" style="background:{EVENTS.get(event["kind"], QUIET)}"></i>{escaped(event["kind"])}',
            escaped(event["name"]),
            escaped(event["what"]),
            escaped(event["action"]),
            count(event["rows"]),
        ]
        for event in shown
    ]
    kinds = table["kind"].value_counts().to_pylist()
    note = ", ".join(f"{kind['values']} {count(kind['counts'])}" for kind in kinds)
    note += "; the plot marks where" + (", the newest are below" if table.num_rows > len(rows) else "")
    head = ["event", "at", "what", "done", "rows"]
    return section("Events", f"{note}; all are in the folder events.", html_table(head, rows, numeric=(4,)))


def quarantine(table: pa.Table) -> str:
    """The rows that could not be used, by reason."""
    if not table.num_rows:
        return ""
    if "reason" not in table.column_names:
        return section("Quarantine", f"{count(table.num_rows)} rows could not be used.", "")
    reasons = sorted(table["reason"].value_counts().to_pylist(), key=lambda reason: -reason["counts"])
    rows = [[escaped(reason["values"]), count(reason["counts"])] for reason in reasons[:_MOST_REASONS]]
    note = f"{count(table.num_rows)} rows could not be used, so none was learned; see the folder quarantine."
    return section("Quarantine", note, html_table(["reason", "rows"], rows, numeric=(1,)))


def _duration(summary: Mapping[str, Any]) -> str:
    seconds = summary.get("wall_seconds")
    if not isinstance(seconds, int | float):
        return ""
    return f"{seconds:.1f} s in all" if seconds < 120 else f"{seconds / 60:.1f} min in all"


def _of_rows(summary: Mapping[str, Any], key: str) -> str:
    if key == "rows_learned" and "rows_predicted" in summary:
        return f"{count(summary['rows_predicted'])} predicted"
    learned = summary.get("rows_learned")
    return f"{100 * summary[key] / (learned + summary[key]):.2g}% of rows" if learned else ""


def section(title: str, note: str, body: str) -> str:
    """A box with a title, a note and HTML in it."""
    title = title[:1].upper() + title[1:]
    return f"<section><h2>{escaped(title)}</h2><p>{escaped(note)}</p>{body}</section>"


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: tuple[int, ...], kind: str = "") -> str:
    """A table that scrolls if it is wider than the screen. head: omitted if all its cells are empty."""

    def line(tag: str, cells: Iterable[str]) -> str:
        return "<tr>" + "".join(
            f"<{tag}{' class=n' if i in numeric else ''}>{cell}</{tag}>" for i, cell in enumerate(cells)
        ) + "</tr>"  # fmt: skip

    body = "".join(line("td", row) for row in rows)
    top = f"<thead>{line('th', map(escaped, head))}</thead>" if any(head) else ""
    table = f"<table{f' class={kind}' if kind else ''}>{top}<tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'
