"""Engines by name: those that are installed, among them ours, and those that a module has."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

from incr_core._util import Catalogue, file_of
from incr_core.engines._at_owner import AtOwner
from incr_core.engines._base import Engine
from incr_core.errors import ArgumentError, EngineError, JobError

__all__ = ["ENGINES", "at_owner", "engine_named"]

ENGINES: Catalogue[type[Engine]] = Catalogue("an engine", {}, "incr.engines", error=ArgumentError, broken=EngineError)
"""What `--on` can name. Ours are entry points too, since the core knows neither Ray nor Flower."""

OURS = Path(__file__).resolve().parents[1]
"""The core's package; our other engines are packages beside it."""


def engine_named(name: str) -> type[Engine]:
    """The engine of that name: an installed one, or "module:Class".

    >>> engine_named("local").__name__
    'LocalEngine'
    """
    if entry := ENGINES.plugins().get(name):
        _check_ours(entry)
    engine: type[Engine] = ENGINES.find(name, "on")
    return engine


def at_owner(name: str = "federated") -> AtOwner:
    """What owners of rows can do, with the engine of that name.

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
    """ArgumentError where another module with the name of our engine's package shadows it."""
    package = entry.module.partition(".")[0]
    ours = OURS.with_name(package)
    found = file_of(package)
    if ours.is_dir() and (found is None or found.resolve() != ours):
        whose = "a folder without __init__.py" if found is None else str(found)
        raise ArgumentError(
            f"on {entry.name}: expected our package {package} ({ours}), got {whose}, which Python finds first; "
            "rename that, run from another folder (`python -m` and scripts look in theirs first), or uninstall it"
        )
