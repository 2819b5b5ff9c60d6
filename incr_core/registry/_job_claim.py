"""Whose folder is this? A run directory belongs to one job, which the first line of its job.toml names."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from incr_core.errors import RunDirectoryError
from incr_core.storage import SCHEMA, write_atomically

__all__ = ["claim", "is_run", "refuse_foreign_files", "require_run"]

_MARK = f"# incr run directory, schema {SCHEMA}, job "
_OTHER = re.compile(r"# incr run directory, schema (\d+), job (?:(\w+):)?")


def is_run(folder: Path) -> bool:
    """Whether a folder is a run directory.

    >>> is_run(Path("/nowhere"))
    False
    """
    return _first_line(folder).startswith(_MARK)


def _first_line(folder: Path) -> str:
    try:
        with open(folder / "job.toml") as file:
            return file.readline()
    except (OSError, UnicodeDecodeError):
        return ""


def require_run(folder: Path) -> None:
    """Raise RunDirectoryError unless a folder is a run directory of the schema that this incr reads.

    >>> require_run(Path("/nowhere"))
    Traceback (most recent call last):
    ...
    incr_core.errors.RunDirectoryError: /nowhere: expected a run directory, found none; start one with `incr run`
    """
    _refuse_other_schema(folder)
    if not is_run(folder):
        raise RunDirectoryError(f"{folder}: expected a run directory, found none; start one with `incr run`")


def _refuse_other_schema(folder: Path) -> None:
    found = _OTHER.match(_first_line(folder))
    if found is not None and int(found[1]) != SCHEMA:
        on = f" --on {found[2]}" if found[2] not in (None, "local") else ""
        raise RunDirectoryError(
            f"{folder}: expected a run directory of schema {SCHEMA}, found schema {found[1]}, of another incr, whose "
            f"states cannot be gone on from; learn the stream anew with `incr run {folder / 'job.toml'}{on} --out "
            f"{folder}-schema-{SCHEMA}`, or use the incr that wrote it"
        )


def refuse_foreign_files(folder: Path) -> None:
    """Raise RunDirectoryError for what is neither a run directory nor empty, nor about to become one.

    >>> refuse_foreign_files(Path("/nowhere"))
    >>> refuse_foreign_files(Path("/dev"))
    Traceback (most recent call last):
    ...
    incr_core.errors.RunDirectoryError: /dev: expected a run directory or an empty folder, found other files ...
    """
    _refuse_other_schema(folder)
    if is_run(folder) or not folder.exists():
        return
    # A kill during `create` may leave an empty folder with these two.
    foreign = sorted({file.name for file in folder.iterdir()} - {".lock", ".tmp-job.toml"})
    if foreign:
        raise RunDirectoryError(
            f"{folder}: expected a run directory or an empty folder, found other files "
            f"({', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''}); choose another --out"
        )


def claim(folder: Path, job_toml: str, fingerprint: str, begun: bool = True) -> None:
    """Write the job into the folder, unless the run of a job with another fingerprint is there.

    fingerprint: equal for the same run: of the job, or ENGINE:JOB. begun: whether that run has committed anything.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     claim(Path(folder), "seed = 1", "f00d")
    ...     claim(Path(folder), "seed = 2", "beef")
    Traceback (most recent call last):
    ...
    incr_core.errors.RunDirectoryError: ...: holds the run of another job: seed: 1 there, 2 here; choose ...
    """
    file = folder / "job.toml"
    text = f"{_MARK}{fingerprint}\n{job_toml}"
    found = file.read_text() if is_run(folder) else None
    if begun and found is not None and (other := found.splitlines()[0].removeprefix(_MARK).strip()) != fingerprint:
        engine, _, job = other.rpartition(":")
        here, _, same = fingerprint.rpartition(":")
        differences = _differences(tomllib.loads(found), tomllib.loads(job_toml)) or [
            f"engine: {engine} there, {here} here" if job == same else f"fingerprint: {other} there, {fingerprint} here"
        ]
        raise RunDirectoryError(
            f"{folder}: holds the run of another job: {'; '.join(differences[:3])}"
            f"{f'; and {len(differences) - 3} more' if len(differences) > 3 else ''}; "
            "choose another --out, or run the job it belongs to"
        )
    # Keys that make no other run of it, such as publish.keep, may have changed.
    if found != text:
        write_atomically(file, text.encode())


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Where two jobs differ, one line per key."""
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
