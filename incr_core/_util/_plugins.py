"""Everything that can be named: ours by name, others' by an entry point or by "module:attribute"."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from incr_core.errors import IncrError, JobError

__all__ = ["Catalogue", "file_of", "unknown"]

T = TypeVar("T", bound=Callable[..., Any])

MOST_NAMES = 25
"""Names that a message lists at most."""


class Catalogue(Mapping[str, T]):
    """What can be named in one place of a job, by one of three kinds of name:

        "ewc"               one of ours; as a mapping, the catalogue holds these
        "name"              an entry point of `group`, which an installed package declares; ours go first
        "module:attribute"  a function or class of any module that Python finds, or that lies beside the job file

    what: what is named, with its article, for messages. error: what is raised for a name that is not known or cannot
    be imported; broken: what is raised, if something else, where a plugin fails while it is imported.

    >>> shapes = Catalogue("a shape", {"square": lambda side: side * side}, "incr.shapes")
    >>> shapes.find("square", "shape.name")(3), shapes.find("math:sqrt", "shape.name")(4.0)
    (9, 2.0)
    >>> shapes.find("sqare", "shape.name")
    Traceback (most recent call last):
    ...
    incr_core.errors.JobError: shape.name: expected a shape, got 'sqare'; did you mean 'square'?
    >>> shapes.find("math:sqr", "shape.name")
    Traceback (most recent call last):
    ...
    incr_core.errors.JobError: shape.name "math:sqr": expected a function sqr in math, got none; did you mean 'sqrt'?
    """

    def __init__(
        self,
        what: str,
        ours: Mapping[str, T],
        group: str,
        *,
        error: type[IncrError] = JobError,
        broken: type[IncrError] | None = None,
    ) -> None:
        self.what = what
        self.group = group
        self._ours = dict(ours)
        self._error = error
        self._broken = broken or error

    def __getitem__(self, name: str) -> T:
        return self._ours[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ours)

    def __len__(self) -> int:
        return len(self._ours)

    def find(self, name: str, place: str, root: str | None = None) -> Any:
        """What is named, imported if need be.

        place: the key that names it, for messages. root: a folder whose modules are found too, the job file's, after
        all that are installed.
        """
        if name in self._ours:
            return self._ours[name]
        if ":" in name:
            if not names_code(name):
                raise self._error(f'{place}: expected "module:name", got {name!r}')
            return _imported(name, place, root, self._error)
        if fault := self.fault(name):
            raise self._error(f"{place}: {fault}")
        return self._loaded(self.plugins()[name], place)

    def fault(self, name: str) -> str:
        """What is wrong with a name, without importing anything: "" where it is known, or is "module:attribute"."""
        if ":" in name or name in self._ours or name in (plugins := self.plugins()):
            return ""
        known = [*self._ours, *plugins]
        return unknown(self.what, name, known) if known else f'expected {self.what}, got {name!r}; write "module:name"'

    def plugins(self) -> dict[str, EntryPoint]:
        """The entry points of the group, by name, that none of ours hides."""
        return {entry.name: entry for entry in entry_points(group=self.group) if entry.name not in self._ours}

    def _loaded(self, entry: EntryPoint, place: str) -> Any:
        place = f'{place} "{entry.name}"'
        try:
            return entry.load()
        except ModuleNotFoundError as missing:
            dist = entry.dist
            extra = dist is not None and entry.name in (dist.metadata.get_all("Provides-Extra") or ())
            remedy = f"pip install '{dist.name}[{entry.name}]'" if dist is not None and extra else "install it"
            raise self._error(f"{place}: expected the package {missing.name}, got none; {remedy}") from missing
        except Exception as error:  # Ray, say, reads its settings from the environment when it is imported
            raise self._broken(
                f"{place}: expected {entry.value} to be imported, got {type(error).__name__}: {error}; "
                "mend its installation or its settings in the environment"
            ) from error


def names_code(name: str) -> bool:
    """Whether a name is "module:attribute": it, and nothing else, is imported because a job says so.

    >>> names_code("losses.own:Huber"), names_code("replay"), names_code("cuda:0"), names_code("a:b:c")
    (True, False, False, False)
    """
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), attribute))


def unknown(what: str, name: str, known: Iterable[Any]) -> str:
    """Say what was expected instead of a name that is not known, and which one may have been meant.

    >>> unknown("a strategy", "replya", ["replay", "ewc"])
    "expected a strategy, got 'replya'; did you mean 'replay'?"
    """
    return f"expected {what}, got {name!r}; {_hint(name, known)}"


def _hint(name: str, known: Iterable[Any]) -> str:
    names = sorted(map(str, known))
    near = difflib.get_close_matches(name, names, 1)
    shown = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
    return f"did you mean {near[0]!r}?" if near else f"known: {shown}"


def _imported(name: str, place: str, root: str | None, error: type[IncrError]) -> Callable[..., Any]:
    """The function or class that "module:name" names.

    place: the key of the job that names it; root: a folder whose modules are found too, the job file's, after all that
    are installed; error: what is raised where there is none.

    >>> _imported("math:sqrt", "model.factory", None, JobError)(4.0)
    2.0
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
        got = (
            "none; write it beside the job file, or install it"
            if missing
            else f"one that cannot be imported ({fault}); mend it"
        )
        hidden = _hidden((fault.name or module_name).partition(".")[0], root)
        raise error(f"{place}: expected a Python module {module_name}, got {got}{hidden}") from fault
    found = getattr(module, attribute, None)
    if found is None:
        hint = _hint(attribute, (name for name in vars(module) if not name.startswith("__"))) + _hidden(
            module_name.partition(".")[0], root
        )
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
