"""Error messages for job files: the place, the expected value, the value found and the remedy, in one sentence."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined

from incr_core.errors import ArgumentError, JobError

__all__ = ["as_job_error", "first_fault"]

KINDS = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a table",
    "model": "a table",
}
"""Names of the kinds of value, by the beginning of pydantic's error types."""

BOUNDS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "string_too_short": "some text",
    "finite_number": "a finite number",
    "int_parsing_size": "a smaller number",
}
"""Expectations for values of the right kind that are out of range, by pydantic's error type and context."""

MOST_UNKNOWN = 8
"""Number of unknown keys that one message names."""


@contextmanager
def as_job_error() -> Iterator[None]:
    """Raise a JobError in place of an ArgumentError. Also a decorator.

    >>> with as_job_error():
    ...     raise ArgumentError("stream.every: expected at least 1 row, got 0")
    Traceback (most recent call last):
    ...
    incr_core.errors.JobError: stream.every: expected at least 1 row, got 0
    """
    try:
        yield
    except ArgumentError as error:
        raise JobError(str(error)) from error


def first_fault(error: ValidationError, model: type[BaseModel], explained: bool = False) -> str:
    """Return the unknown keys of a job of this `model`, which often cause its other errors, or else the first error.

    explained: whether `incr explain` knows the keys, so that the message may end with the command.

    >>> class Learner(BaseModel):
    ...     batch_size: int = 32
    >>> try:
    ...     Learner.model_validate({"batch_size": "many"})
    ... except ValidationError as error:
    ...     first_fault(error, Learner)
    'batch_size: expected a whole number, got "many"; leave it out for the default, 32'
    """
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]
    if fault["type"] == "extra_forbidden":
        unknown = dict.fromkeys(
            _unknown_key(one, model, explained) for one in faults if one["type"] == "extra_forbidden"
        )
        more = f"; and {len(unknown) - MOST_UNKNOWN} more unknown keys" if len(unknown) > MOST_UNKNOWN else ""
        return "; ".join([*unknown][:MOST_UNKNOWN]) + more
    path, kind, default = _key_at(model, fault["loc"])
    place = ".".join(map(str, path))
    more = f"; see: incr explain {_dotted(path)}" if explained and path else ""
    if fault["type"] == "missing":
        more = f"; see: incr explain {_dotted(fault['loc'])}" if explained else ""
        return f"{'.'.join(map(str, fault['loc']))}: missing; the job needs it{more}"
    if fault["type"] == "value_error":
        message = fault["msg"].removeprefix("Value error, ")
        return f"{place}: {message}" if place else message
    # Of a key that may be one of several kinds of value, each kind that it is not complains.
    same = [other for other in faults if _key_at(model, other["loc"])[0] == path]
    own = next((other["msg"] for other in same if other["type"] == "value_error"), None)
    if own is not None:  # a message of ours says more than pydantic's
        message = own.removeprefix("Value error, ")
        return f"{place}: {message}" if place else message
    return (
        f"{place}: expected {_expected(same)}, got {_shown(fault['input'])}{_remedy(same, place, kind, default)}{more}"
    )


def _unknown_key(fault: ErrorDetails, model: type[BaseModel], explained: bool) -> str:
    """Name an unknown key, and the known keys that may have been meant."""
    path, kind, _ = _key_at(model, fault["loc"])
    more = f"; see: incr explain {_dotted(path)}" if explained and path else ""
    unknown = str(fault["loc"][len(path)])
    hint = _nearest(unknown, kind, model) or f"{_known(kind)}{more}"
    return f"{'.'.join(map(str, [*path, unknown]))}: unknown key; {hint}"


def _dotted(path: Sequence[int | str]) -> str:
    """A key as `incr explain` is asked for it: without places in lists."""
    return ".".join(part for part in path if isinstance(part, str))


def _nearest(unknown: str, kind: Any, model: type[BaseModel]) -> str:
    """Suggestions for an unknown key: similar keys of its section, or the same key of another section."""
    section = _model_of(kind)
    known = [] if section is None else list(section.model_fields)
    if near := difflib.get_close_matches(unknown, known, 3, 0.75) or difflib.get_close_matches(unknown, known, 1):
        return f"did you mean {' or '.join(json.dumps(name) for name in near)}?"
    elsewhere = {key.rpartition(".")[2]: key for key in _keys_of(model)}
    if near := difflib.get_close_matches(unknown, elsewhere, 1, 0.9):
        return f"did you mean {elsewhere[near[0]]}?"
    return ""


def _known(kind: Any) -> str:
    section = _model_of(kind)
    return f"known keys: {', '.join([] if section is None else section.model_fields)}"


def _keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All keys of a job, dotted."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for kind in (field.annotation, *get_args(field.annotation)):
            if (section := _model_of(kind)) is not None:
                yield from _keys_of(section, f"{prefix}{name}.")


def _expected(faults: Sequence[ErrorDetails]) -> str:
    """The values that a key takes. For a value of the right kind, only the condition that it violates."""
    for fault in faults:
        if fault["type"] in BOUNDS:
            return BOUNDS[fault["type"]].format(**fault.get("ctx", {})).removesuffix(".0")
    kinds = []
    for fault in faults:
        if fault["type"] == "literal_error":
            kinds.append(fault["ctx"]["expected"].replace("'", '"'))
        else:
            kinds.append(KINDS.get(fault["type"].split("_")[0], fault["msg"]))
    return " or ".join(dict.fromkeys(kinds))


def _remedy(faults: Sequence[ErrorDetails], place: str, kind: Any, default: Any) -> str:
    value, types = faults[0]["input"], {fault["type"] for fault in faults}
    if "string_type" in types and type(value) in (int, float) and not types & BOUNDS.keys():
        return f'; if it is a name, put it in quotes: "{value}"'
    if "list_type" in types:
        tables = any(_model_of(part) for inner in _alternatives(kind) for part in get_args(inner))
        return f"; write it as [[{place}]]" if tables else f"; put it in brackets: [{_shown(value)}]"
    if types & {"dict_type", "model_type", "model_attributes_type"}:
        return "; write it as { key = value }, or as a section"
    if default is None:
        return "; change it, or leave it out"
    return "; change it" if default in (PydanticUndefined, "") else f"; leave it out for the default, {_shown(default)}"


def _shown(value: Any) -> str:
    """A value as TOML would have it."""
    shown = json.dumps(value, default=str, ensure_ascii=False)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _key_at(model: type[BaseModel], loc: Sequence[int | str]) -> tuple[list[int | str], Any, Any]:
    """Return the keys and list places in pydantic's `loc`, the type expected there, and the default.

    The kinds of value that pydantic has tried there are left out.
    """
    path: list[int | str] = []
    kind: Any = model
    default: Any = PydanticUndefined
    for part in loc:
        section = _model_of(kind)
        inside = {get_origin(inner): get_args(inner) for inner in _alternatives(kind)}
        if section is not None and part in section.model_fields:
            field = section.model_fields[str(part)]
            kind, default = field.annotation, field.default
        elif isinstance(part, str) and dict in inside:
            kind, default = inside[dict][1], PydanticUndefined
        elif isinstance(part, int) and list in inside:
            kind, default = inside[list][0], PydanticUndefined
        else:
            break
        path.append(part)
    return path, kind, default


def _model_of(kind: Any) -> type[BaseModel] | None:
    """The section that an annotation stands for, if it stands for one."""
    for inner in _alternatives(kind):
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            return inner
    return None


def _alternatives(kind: Any) -> list[Any]:
    """The kinds of value that an annotation stands for."""
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [inner for part in get_args(kind) for inner in _alternatives(part)]
    return [kind]
