"""What a job names, as one of ours or as anybody's "module:name": found and built, or refused with a remedy."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from incr_core.errors import ArgumentError, IncrError, JobError

__all__ = ["build", "file_of", "find", "load_callable", "refusal", "unknown"]

MOST_NAMES = 25
"""Names shown to whoever wrote one that is not among them."""

PLAIN: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    str: "text",
    bool: "true or false",
    type(None): "nothing",
}
"""Kinds of argument that a job file can give, and what they are called."""

TACIT = ("self", "params", "model", "optimizer")
"""Arguments that no job file gives: whoever builds the thing passes them."""


def find(name: str, known: Mapping[str, Callable[..., Any]], place: str, root: str) -> Callable[..., Any]:
    """The function or class that a job names: one of those `known`, or what "module:name" names.

    >>> find("short", {"short": len}, "model.factory", ".") is len
    True
    """
    return known[name] if name in known else load_callable(name, place, root)


def load_callable(
    name: str, place: str, root: str | None = None, *, error: type[IncrError] = JobError
) -> Callable[..., Any]:
    """The function or class that "module:name" names.

    place: the key of the job that names it; root: a folder whose modules are found too, the job file's, behind all that
    are installed; error: what is raised where there is none.

    >>> load_callable("math:sqrt", "model.factory")(4.0)
    2.0
    >>> load_callable("math:sqr", "model.factory")
    Traceback (most recent call last):
    ...
    incr_core.errors.JobError: model.factory "math:sqr": expected a function sqr in math, got none; did you mean 'sqrt'?
    """
    place = f'{place} "{name}"'
    module_name, _, attribute = name.partition(":")
    if root is not None and root not in sys.path:
        # Last: a file there must not take the place of a library, or of our own packages, in all of the process.
        sys.path.append(root)
    try:
        module = importlib.import_module(module_name)
    except ImportError as fault:
        missing = isinstance(fault, ModuleNotFoundError) and f"{module_name}.".startswith(f"{fault.name}.")
        got = "none; is it on the path?" if missing else f"one that cannot be imported ({fault}); mend it"
        hidden = _hidden((fault.name or module_name).partition(".")[0], root)
        raise error(f"{place}: expected a Python module {module_name}, got {got}{hidden}") from fault
    found = getattr(module, attribute, None)
    if found is None:
        hint = _hint(attribute, vars(module)) + _hidden(module_name.partition(".")[0], root)
        raise error(f"{place}: expected a function {attribute} in {module_name}, got none; {hint}")
    if not callable(found):
        raise error(f"{place}: expected a function, got {type(found).__name__}; name one that makes it")
    return found  # type: ignore[no-any-return]


def file_of(module: str) -> Path | None:
    """The file, or the folder, that a top-level module is, or would be, imported from; it is not imported for that.

    >>> file_of("json").name, file_of("no_such_module")
    ('json', None)
    """
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # one that somebody put there without a file
        return None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    return path.parent if path.stem == "__init__" else path


def _hidden(module: str, root: str | None) -> str:
    """What to say where a file beside the job has the name of a module that is found first; "" where none has."""
    if root is None or not module:
        return ""
    own = next((path for path in (Path(root, f"{module}.py"), Path(root, module)) if path.exists()), None)
    found = file_of(module)
    if own is None or found is None or found.resolve() == own.resolve():
        return ""
    return f"; {module} is {found}, which hides {own}: give yours another name"


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


def unknown(name: str, known: Iterable[Any]) -> str:
    """Say that a name is not known, and which one may have been meant.

    >>> unknown("replya", ["replay", "ewc"])
    "unknown 'replya'; did you mean 'replay'?"
    """
    return f"unknown {name!r}; {_hint(name, known)}"


def _hint(name: str, known: Iterable[Any]) -> str:
    names = sorted(map(str, known))
    near = difflib.get_close_matches(name, names, 1)
    shown = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
    return f"did you mean {near[0]!r}?" if near else f"known: {shown}"
