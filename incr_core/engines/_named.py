"""Lookup of engines by name: installed ones, including those of this project, and classes in modules."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

from incr_core._util import Catalogue, file_of
from incr_core.engines._at_owner import AtOwner
from incr_core.engines._base import Engine
from incr_core.errors import ArgumentError, EngineError, JobError

__all__ = ["ENGINES", "at_owner", "engine_named"]

ENGINES: Catalogue[type[Engine]] = Catalogue("an engine", {}, "incr.engines", error=ArgumentError, broken=EngineError)
"""Names for `--on`. The engines of this project are entry points too, because the core depends on neither Ray nor
Flower.
"""

OURS = Path(__file__).resolve().parents[1]
"""The core's package. The packages of our other engines are its siblings."""


def engine_named(name: str) -> type[Engine]:
    """Return the engine of that name: an installed one, or "module:Class".

    Raises:
        ArgumentError: The name is unknown, or another module shadows the engine's package.

    Example:
        >>> engine_named("local").__name__
        'LocalEngine'
    """
    if entry := ENGINES.plugins().get(name):
        _check_ours(entry)
    engine: type[Engine] = ENGINES.find(name, "on")
    return engine


def at_owner(name: str = "federated") -> AtOwner:
    """Return the owner operations of the engine of that name.

    Raises:
        JobError: Participants of this engine are not clients.

    Example:
        >>> at_owner("local")
        Traceback (most recent call last):
        ...
        incr_core.errors.JobError: client: expected --on federated, whose participants are clients, got --on local
    """
    found = engine_named(name).at_owner
    if found is None:
        raise JobError(f"client: expected --on federated, whose participants are clients, got --on {name}")
    return found


def _check_ours(entry: EntryPoint) -> None:
    """Raise an ArgumentError if a module of the same name shadows the package of our engine."""
    package = entry.module.partition(".")[0]
    ours = OURS.with_name(package)
    found = file_of(package)
    if ours.is_dir() and (found is None or found.resolve() != ours):
        whose = "a folder without __init__.py" if found is None else str(found)
        raise ArgumentError(
            f"on {entry.name}: expected our package {package} ({ours}), got {whose}, which Python finds first; "
            "rename that, run from another folder (`python -m` and scripts look in theirs first), or uninstall it"
        )
