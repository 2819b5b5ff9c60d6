"""The reference of the job file, from the sections in `incr_core/job`: `python -m tools.job_reference` writes it.

It is written to two files: `incr_core/commands/job_reference.json`, which `incr explain` reads without importing torch,
and docs/job.md, whose tables are each between `<!-- keys: SECTION -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from incr_core.job._file import JobFile
from incr_core.job._section import Named, Section
from incr_core.learner import SCHEDULES
from incr_core.models.adapt import ADAPTATIONS
from incr_core.objectives import OBJECTIVES
from incr_core.rounds import AGGREGATIONS, OUTERS
from incr_core.strategies import STRATEGIES

__all__ = ["entries", "main", "page"]

ROOT = Path(__file__).parent.parent
DATA = ROOT / "incr_core/commands/job_reference.json"
PAGE = ROOT / "docs/job.md"

NAMES: dict[str, Mapping[str, Any]] = {
    "strategy": STRATEGIES,
    "outer": OUTERS,
    "learner.objective": OBJECTIVES,
    "learner.schedule": SCHEDULES,
    "model.adapt": ADAPTATIONS,
    "federated.aggregation": AGGREGATIONS,
}
"""Keys that name a part, and the available names. An installed package or a module may add others."""

SIMPLE = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    dict: "table",
    tuple: "pair",
    Any: "any",
}
BOUNDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}", "min_length": "at least {} long"}
BAR = "\\|"
TABLE = re.compile(r"(<!-- keys: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def entries(
    model: type[BaseModel] = JobFile, prefix: str = "", engines: Sequence[str] = Section.engines
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return every key of a job, in order, with its type, default, engines, names and description; sections before
    their keys.

    Example:
        >>> dict(entries())["learner.batch_size"]["type"]
        'whole number, at least 1'
    """
    for name, field in model.model_fields.items():
        key, section = prefix + name, _section(field.annotation)
        where = getattr(section, "engines", engines)
        yield (
            key,
            {
                "type": _kind(field),
                "default": _default(field),
                "engines": list(where),
                "names": sorted(NAMES.get(key, ())),
                "text": " ".join((field.description or "").split()),
            },
        )
        if section is not None:
            yield from entries(section, f"{key}.", where)


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a key holds, alone or in a list; None for a table that only names a part and its
    arguments."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return None if annotation.model_config.get("extra") == "allow" else annotation
    found = (_section(inner) for inner in get_args(annotation))
    return next((one for one in found if one is not None), None)


def _kind(field: FieldInfo) -> str:
    """Describe the values of a key."""
    bounds = [text for one in field.metadata for text in _bounds(one)]
    return ", ".join([_of(field.annotation), *bounds])


def _of(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [text for one in inner[1:] for part in getattr(one, "metadata", [one]) for text in _bounds(part)]
        return " ".join([_of(inner[0]), *bounds])
    if origin in (Union, UnionType):
        kinds = [_of(one) for one in inner if one is not NoneType]
        return " or ".join(dict.fromkeys(kinds))
    if origin is Literal:
        return " or ".join(f'"{value}"' for value in inner)
    if origin is list:
        tables = isinstance(inner[0], type) and issubclass(inner[0], BaseModel)
        return "tables" if tables else f"list of {_of(inner[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "name or table" if issubclass(annotation, Named) else "table"
    return SIMPLE[origin or annotation]


def _bounds(metadata: Any) -> Iterator[str]:
    for name, words in BOUNDS.items():
        value = getattr(metadata, name, None)
        if value is not None:
            yield words.format(f"{value:g}" if isinstance(value, float) else value)


def _default(field: FieldInfo) -> str | None:
    """Return the default as TOML; None if there is none, "required" if a value must be given."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == "" or (type(value) in (dict, list) and not value):
        return None
    return _toml(value)


def _toml(value: Any) -> str | None:
    if isinstance(value, Named):
        return "{ " + ", ".join(f"{key} = {json.dumps(one)}" for key, one in value.model_dump().items()) + " }"
    return None if isinstance(value, BaseModel) else json.dumps(value)


def page(text: str, keys: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text of docs/job.md with its tables made of these entries."""
    tables = {found[2] for found in TABLE.finditer(text)}
    return TABLE.sub(lambda found: f"{found[1]}{_table(found[2], keys, tables)}{found[3]}", text)


def _table(section: str, keys: Mapping[str, Mapping[str, Any]], tables: Collection[str]) -> str:
    """Return the keys of a section, and of tables inside it without a table in the page; for "job", the sections."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, entry in keys.items():
        above = [other for other in tables if key.startswith(f"{other}.")]
        if "." not in key if section == "job" else max(above, key=len, default="") == section:
            default = entry["default"] or ""
            cells = [
                f"`{key.removeprefix(f'{section}.')}`",
                entry["type"],
                default if default in ("", "required") else f"`{default}`",
                entry["text"],
            ]
            rows.append(f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write both files."""
    keys = dict(entries())
    DATA.write_text(json.dumps(keys, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(PAGE.read_text(), keys))
    print(f"{DATA.relative_to(ROOT)} and {PAGE.relative_to(ROOT)}: {len(keys)} keys")


if __name__ == "__main__":
    main()
