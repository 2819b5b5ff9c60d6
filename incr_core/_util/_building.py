"""What a job names, built with the arguments that it gives, or refused with those that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from incr_core.errors import ArgumentError, JobError

__all__ = ["build", "refusal"]

PLAIN: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    str: "text",
    bool: "true or false",
    type(None): "nothing",
}
"""Types of argument that a job file can give, and what they are called in messages."""

TACIT = ("self", "params", "model", "optimizer")
"""Arguments that no job file gives, since the caller passes them."""


def build(kind: Callable[..., Any], arguments: Mapping[str, Any], place: str, *tacit: Any) -> Any:
    """kind(*tacit, **arguments); JobError naming the place where it does not take them.

    >>> build(dict, {"width": 3}, "model.arguments")
    {'width': 3}
    """
    try:
        return kind(*tacit, **arguments)
    except TypeError as error:
        raise JobError(f"{place}: {refusal(_misfit(kind, arguments) or error, kind)}") from error
    except ArgumentError as error:
        name, told = place.rpartition(" ")[2], str(error)
        raise JobError(place + (told.removeprefix(name) if told.startswith(f"{name}.") else f": {told}")) from error


def _misfit(kind: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """Which argument that is declared to be plain is of another kind; "" where none is."""
    try:
        declared = get_type_hints(kind.__init__ if isinstance(kind, type) else kind)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):  # not declared, or by names that are not there at run time
        return ""
    for name, value in arguments.items():
        hint = declared.get(name)
        plain = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        fits = type(value) in plain or (float in plain and type(value) is int)
        if set(plain) <= PLAIN.keys() and not fits:
            expected = " or ".join(PLAIN[part] for part in plain if part is not type(None))
            return f"expected {expected} for {name}, got {value!r}"
    return ""


def refusal(error: Exception | str, kind: Callable[..., Any]) -> str:
    """What is wrong with the arguments of a kind, and those it takes.

    >>> refusal(TypeError("no argument 'wide'"), lambda model, width, depth: None)
    "no argument 'wide'; it takes width, depth"
    """
    accepted = [name for name in inspect.signature(kind).parameters if name not in TACIT]
    return f"{error}; it takes {', '.join(accepted) or 'nothing'}"
