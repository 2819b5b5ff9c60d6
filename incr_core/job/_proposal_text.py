"""A proposed job as a job file whose comments say why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tomli_w

from incr_core.job._proposal import Proposal, ProposedColumn
from incr_core.job._proposed_times import rows_an_increment
from incr_core.shown import shown

__all__ = ["job_text"]

SHORT = 20_000
"""Of a stream of fewer rows each increment is learned three times: one pass is too few steps."""

WIDTH = 100


def job_text(proposal: Proposal, *, path: str, name: str, command: str) -> str:
    """The job file. path: the stream's, from the file's folder on; command: what has written it."""
    assert proposal.label is not None
    seen, rows = len(proposal.sample.table), proposal.sample.rows
    of = f"all {seen:,} rows" if proposal.sample.whole else f"{seen:,} rows" + ("" if rows is None else f" of {rows:,}")
    lines = [
        f"# Written by `{command}`, which looked at {of}.",
        "# `incr explain SECTION.KEY` describes a key; what is not here has its default.",
        "",
        _line("name", name),
        "",
        "[stream]",
        _line("path", path),
        *([_line("csv", proposal.csv.settings, "how these files are written")] if proposal.csv else []),
        *_clock(proposal, rows or seen),
        "",
        "[features]",
        _line("label", proposal.label.name, proposal.label.told),
        *_columns("numeric", proposal.used_as("numeric")),
        *_columns("categorical", proposal.used_as("categorical")),
        *_columns("text", proposal.used_as("text")),
        *_columns("date", proposal.used_as("date")),
        *_columns("ids", ids := proposal.used_as("ids")),
        *([_line("item", [_item_of(ids)], "what is recommended: incr recommend")] if ids else []),
        *_columns("exclude", proposal.used_as("exclude")),
        _line("on_bad_row", "quarantine", _bad(proposal)),
        "",
        *_model(proposal),
        "[learner]",
        _line("objective", proposal.label.objective, f"or {proposal.label.otherwise}" * bool(proposal.label.otherwise)),
        *_passes(proposal, rows or seen),
        *_strategy(proposal),
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _item_of(ids: Sequence[ProposedColumn]) -> str:
    """The id of the item: the last id, unless its name is that of a user."""
    named = [column.name for column in ids]
    return next((name for name in reversed(named) if "user" not in name.lower()), named[-1])


def _strategy(proposal: Proposal) -> list[str]:
    if proposal.used_as("ids"):  # a row of a table moves where its id is seen, so little is forgotten
        return []
    return [
        "",
        "[[strategy]]",
        _line("name", "replay", "remembers rows and learns them again, so that what was learned stays"),
        *([_line("capacity", 500), _line("memory", "window", "the newest rows")] if _has_experts(proposal) else []),
    ]


def _has_experts(proposal: Proposal) -> bool:
    """Whether `model.kind = "auto"` is for these rows: plain tables, whose answers can be mixed."""
    if proposal.used_as("ids"):
        return False
    objective = proposal.label.objective if proposal.label else ""
    return objective in ("binary", "multiclass", "regression") and not proposal.used_as("text")


def _model(proposal: Proposal) -> list[str]:
    why = "several models side by side, weighted by their recent errors"
    if proposal.used_as("ids"):
        return ["[model]", _line("kind", "factorisation", "a bias and factors for each id, and a linear part"), ""]
    return ["[model]", _line("kind", "auto", why), ""] if _has_experts(proposal) else []


def _passes(proposal: Proposal, rows: int) -> list[str]:
    if _has_experts(proposal):
        return [_line("epochs", "auto", "passes over each increment: the more, the fewer rows are known")]
    if proposal.used_as("ids"):
        return []
    return [_line("epochs", 3, "passes over each increment: a short stream has few steps")] if rows < SHORT else []


def _clock(proposal: Proposal, rows: int) -> list[str]:
    times = proposal.times
    zone = []
    if times.without_zone:
        told = ", ".join(f"{count:,} times in {name}" for name, count in times.without_zone.items())
        zone = [_line("time_zone", "UTC", f"of {told}, which have no zone as others have: correct it")]
    if times.predict_at is None:
        return [*zone, _line("every", rows_an_increment(rows), "rows are predicted, then learned, so many at a time")]
    known = times.later[0] if times.later else "..."
    return [
        *zone,
        _line("predict_at", times.predict_at, "rows are predicted, then learned, in the order of this time"),
        _line("every", times.every, "how much time an increment takes"),
        "# " + _line("label_at", known, "the time at which a row's label is known, if that is later"),
    ]


def _bad(proposal: Proposal) -> str:
    missing = proposal.label.missing if proposal.label else 0
    lack = f"{missing:,} rows lack a label: such rows " if missing else "rows that cannot be used "
    return f"{lack}are set aside, and told, instead of ending the run"


def _columns(key: str, columns: Sequence[ProposedColumn]) -> list[str]:
    """The names of columns in one line, or one a line where something is to be said of them."""
    if not columns:
        return []
    if not any(column.why for column in columns):
        line = _line(key, [column.name for column in columns])
        if len(line) <= WIDTH:
            return [line]
    named = [(f"    {_toml(column.name)},", shown(column.why, 120)) for column in columns]
    return [f"{key} = [", *(f"{name:28} # {why}" if why else name for name, why in named), "]"]


def _line(key: str, value: Any, comment: str = "") -> str:
    line = f"{key} = {_toml(value)}"
    return f"{line:28} # {shown(comment, 160)}" if comment else line


def _toml(value: Any) -> str:
    """A value as TOML has it, in one line.

    >>> _toml(["a", 'b"']), _toml(3)
    ('["a", "b\\\\""]', '3')
    """
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(one)}' for key, one in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")
