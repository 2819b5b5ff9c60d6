"""`incr explain`: the reference of a job file's sections and keys."""

from __future__ import annotations

import difflib
import json
import re
import textwrap
from functools import cache
from importlib.resources import files
from typing import Any

from incr_core.errors import ArgumentError

__all__ = ["explained", "keys_of_jobs", "names_of", "nearest"]

WIDTH = 100
LINK = re.compile(r"\[(?P<words>[^\]]+)\]\((?P<place>[^)\s]+)\)")
"""A Markdown link. The descriptions are those of docs/job.md."""


@cache
def _keys() -> dict[str, dict[str, Any]]:
    """Return key -> type, default, engines, names and text, in the order of the file (`tools/job_reference.py`)."""
    found: dict[str, dict[str, Any]] = json.loads((files("incr_core.commands") / "job_reference.json").read_text())
    return found


def explained(key: str | None = None) -> str:
    """Return the description of a key, of a section with its keys, or of all sections.

    Args:
        key: A key such as "stream.every", or a section such as "learner". None: all sections.

    Raises:
        ArgumentError: There is no such key. The message names the nearest ones.

    Example:
        >>> print(explained("learner.batch_size"))
        learner.batch_size
          type     whole number, at least 1
          default  32
          engines  local, cluster, federated
        <BLANKLINE>
          Rows in a batch.
    """
    keys = _keys()
    if key is None:
        return "\n".join(
            ["The sections of a job file; `incr explain SECTION` lists the keys of one:", "", *_listed(keys, "")]
        )
    name = key.strip("[] ")
    while name not in keys and keys.get(name.rpartition(".")[0], {}).get("type") in ("name or table", "tables"):
        name = name.rpartition(".")[0]  # an argument of a part in a table
    if name not in keys:
        near = nearest(name)
        hint = f"did you mean {' or '.join(near)}?" if near else "`incr explain` lists all sections"
        raise ArgumentError(f'explain: expected a section or a key of a job file, got "{name}"; {hint}')
    entry = keys[name]
    facts = [("type", entry["type"]), ("default", entry["default"]), ("engines", ", ".join(entry["engines"]))]
    facts.append(("names", ", ".join(entry["names"])))
    lines = [name, *(_wrapped(f"  {what:8} {value}", " " * 11) for what, value in facts if value)]
    lines += ["", _wrapped(f"  {_plain(entry['text'])}", "  ")]
    inside = _listed(keys, f"{name}.")
    return "\n".join([*lines, "", *inside] if inside else lines)


def keys_of_jobs() -> list[str]:
    """Return all keys and sections of a job file.

    >>> "stream.every" in keys_of_jobs()
    True
    """
    return list(_keys())


def names_of(key: str) -> list[str]:
    """Return the names that a key may have as its value.

    >>> "replay" in names_of("strategy")
    True
    """
    return list(_keys()[key]["names"])


def nearest(name: str) -> list[str]:
    """Return at most three keys of a job that are similar to a name.

    Example:
        >>> nearest("stream.evry"), nearest("batch_size")
        (['stream.every'], ['learner.batch_size'])
    """
    keys = _keys()
    section, _, last = name.rpartition(".")
    beside = {key.rpartition(".")[2]: key for key in keys if key.rpartition(".")[0] == section}
    if near := difflib.get_close_matches(last, beside, 3, 0.7):
        return [beside[one] for one in near]
    anywhere = {key.rpartition(".")[2] for key in keys}
    near = difflib.get_close_matches(last, anywhere, 1, 0.8)
    return [key for key in keys if key.rpartition(".")[2] in near][:3]


def _listed(keys: dict[str, dict[str, Any]], prefix: str) -> list[str]:
    """Return a line for each key directly below a section: its name and the beginning of its first sentence."""
    names = [key for key in keys if key.startswith(prefix) and "." not in key.removeprefix(prefix)]
    wide = max((len(name) for name in names), default=0)
    lines = [f"  {name:{wide}}  {_first_sentence(keys[name]['text'])}" for name in names]
    return [line if len(line) <= WIDTH else f"{line[: WIDTH - 4].rpartition(' ')[0]} ..." for line in lines]


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.:]) (?=[A-Z`])", _plain(text))[0]


def _plain(text: str) -> str:
    """Return a description without Markdown: links become their words and the page, and code loses its backticks."""
    linked = LINK.sub(lambda link: f"{link['words']} ({_page(link['place'])})", text)
    return linked.replace("`", "")


def _page(place: str) -> str:
    if place.startswith("#"):
        return f"docs/job.md{place}"
    return place.removeprefix("../") if place.startswith("../") else f"docs/{place}"


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
