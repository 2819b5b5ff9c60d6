"""The job of a run directory, identified by the first line of its job.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from incr_core.errors import RunDirectoryError
from incr_core.storage import SCHEMA, located, numbers_in, write_atomically

__all__ = [
    "AsNow",
    "as_written",
    "begun",
    "engine_of",
    "is_run",
    "refuse_another",
    "refuse_foreign_files",
    "require_run",
    "write_job",
]

_HEADER = f"# incr run directory, schema {SCHEMA}, job "
_ANY_HEADER = re.compile(r"# incr run directory, schema (\d+), job (?:(\w+):)?")


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run directory.

    Example:
        >>> is_run(Path("/nowhere"))
        False
    """
    return _first_line(folder).startswith(_HEADER)


def _first_line(folder: Path) -> str:
    try:
        with open(folder / "job.toml") as file:
            return file.readline()
    except (OSError, UnicodeDecodeError):
        return ""


def engine_of(folder: Path) -> str:
    """Return the engine on which a run began; "" if it is not recorded."""
    found = _ANY_HEADER.match(_first_line(folder))
    return (found[2] or "") if found else ""


def require_run(folder: Path) -> None:
    """Raise RunDirectoryError unless a folder is a run directory with the schema of this incr.

    Example:
        >>> require_run(Path("/nowhere"))
        Traceback (most recent call last):
        ...
        incr_core.errors.RunDirectoryError: /nowhere: expected a run directory, found none; start one with `incr run`
    """
    _refuse_other_schema(folder)
    if not is_run(folder):
        raise RunDirectoryError(f"{folder}: expected a run directory, found none; start one with `incr run`")


def _refuse_other_schema(folder: Path) -> None:
    found = _ANY_HEADER.match(_first_line(folder))
    if found is not None and int(found[1]) != SCHEMA:
        on = f" --on {found[2]}" if found[2] not in (None, "local") else ""
        raise RunDirectoryError(
            f"{folder}: expected a run directory of schema {SCHEMA}, found schema {found[1]}, of another incr, whose "
            f"states cannot be resumed; learn the stream again with `incr run {folder / 'job.toml'}{on} --out "
            f"{folder}-schema-{SCHEMA}`, or use the incr that wrote it"
        )


def begun(place: str | Path) -> dict[str, Any]:
    """Return the job of the run in a folder or at an address, or {} if the run has committed nothing.

    Example:
        >>> begun("/nowhere")
        {}
    """
    folder = located(place)
    if not is_run(folder) or not numbers_in(folder / "versions"):
        return {}
    return tomllib.loads((folder / "job.toml").read_text())


def refuse_foreign_files(folder: Path) -> None:
    """Raise RunDirectoryError unless a folder is a run directory, empty or missing.

    Example:
        >>> refuse_foreign_files(Path("/nowhere"))
        >>> refuse_foreign_files(Path("/dev"))
        Traceback (most recent call last):
        ...
        incr_core.errors.RunDirectoryError: /dev: expected a run directory or an empty folder, found other files ...
    """
    _refuse_other_schema(folder)
    if is_run(folder) or not folder.exists():
        return
    # A kill during `create` may leave a folder with only the first two; a detached loop writes its record before it.
    ours = {".lock", ".tmp-job.toml", "detached.json", ".tmp-detached.json"}
    foreign = sorted({file.name for file in folder.iterdir()} - ours)
    if foreign:
        raise RunDirectoryError(
            f"{folder}: expected a run directory or an empty folder, found other files "
            f"({', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''}); choose another --out"
        )


AsNow = Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], str]]
"""Conversion of a stored job to its current form, and its fingerprint (`Job.as_now`)."""


def as_written(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return the job unchanged."""
    return document, ""


def write_job(folder: Path, job_toml: str, fingerprint: str, begun: bool = True, as_now: AsNow = as_written) -> None:
    """Write job.toml, unless the folder contains the run of a job with another fingerprint.

    Args:
        folder: The run directory.
        job_toml: The job.
        fingerprint: The fingerprint of the run: that of the job, or ENGINE:JOB.
        begun: Whether the run has committed anything.
        as_now: The conversion of a job stored by an earlier incr.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_job(Path(folder), "seed = 1", "f00d")
        ...     write_job(Path(folder), "seed = 2", "beef")
        Traceback (most recent call last):
        ...
        incr_core.errors.RunDirectoryError: ...: holds the run of another job: seed: 1 there, 2 here; choose ...
    """
    file = folder / "job.toml"
    text = f"{_HEADER}{fingerprint}\n{job_toml}"
    found = file.read_text() if is_run(folder) else None
    if begun and found is not None and (other := found.splitlines()[0].removeprefix(_HEADER).strip()) != fingerprint:
        engine, here = other.rpartition(":")[0], fingerprint.rpartition(":")[0]
        there, again = as_now(tomllib.loads(found))
        if engine != here or again != fingerprint.rpartition(":")[2]:
            differences = [f"engine: {engine} there, {here} here"] if engine != here else []
            differences += _differences(there, tomllib.loads(job_toml))
            raise _of_another(folder, differences or [f"fingerprint: {other} there, {fingerprint} here"])
    # Keys that do not affect the identity of the run, such as publish.keep, may have changed.
    if found != text:
        write_atomically(file, text.encode())


def refuse_another(
    place: str | Path, job_toml: str, apart_from: Collection[str] = (), as_now: AsNow = as_written
) -> None:
    """Raise RunDirectoryError if the folder contains the run of another job, on any engine.

    Args:
        place: The run directory.
        job_toml: The job.
        apart_from: Sections that may differ, such as those of engines.
        as_now: The conversion of a job stored by an earlier incr.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_job(Path(folder), "seed = 1\\ncluster.replicas = 2", "cluster:f00d")
        ...     Path(folder, "versions", "1").mkdir(parents=True)
        ...     refuse_another(Path(folder), "seed = 1", ["cluster"])
        ...     refuse_another(Path(folder), "seed = 2", ["cluster"])
        Traceback (most recent call last):
        ...
        incr_core.errors.RunDirectoryError: ...: holds the run of another job: seed: 1 there, 2 here; choose ...
    """
    folder = located(place)
    if not is_run(folder) or not numbers_in(folder / "versions"):
        return
    there, here = dict(as_now(tomllib.loads((folder / "job.toml").read_text()))[0]), tomllib.loads(job_toml)
    for section in apart_from:
        there.pop(section, None)
        here.pop(section, None)
    if differences := _differences(there, here):
        raise _of_another(folder, differences)


def _of_another(folder: Path, differences: Sequence[str]) -> RunDirectoryError:
    return RunDirectoryError(
        f"{folder}: holds the run of another job: {'; '.join(differences[:3])}"
        f"{f'; and {len(differences) - 3} more' if len(differences) > 3 else ''}; "
        "choose another --out, or run the job it belongs to"
    )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return the differences between two jobs, one line per key."""
    old, new = ({key: repr(value) for key, value in _leaves(job)} for job in (there, here))
    return [
        f"{key}: {old.get(key, 'nothing')} there, {new.get(key, 'nothing')} here"
        for key in [*new, *(key for key in old if key not in new)]
        if old.get(key) != new.get(key)
    ]


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(node, list) and any(isinstance(item, dict) for item in node):
        for i, item in enumerate(node):
            yield from _leaves(item, f"{path}[{i}]")
    else:
        yield path, node
