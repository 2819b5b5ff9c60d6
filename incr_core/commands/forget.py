"""`incr forget`: delete rows from a run, from the state of an owner's client, and from a journal."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from incr_core._util import json_text
from incr_core.engines import at_owner
from incr_core.errors import ArgumentError, JobError
from incr_core.runs import erase, rows_in_file, rows_where
from incr_core.shown import shown

__all__ = ["forget", "is_owners"]


def forget(options: argparse.Namespace) -> int:
    """Delete rows from all stored data of a run or an owner's client. Return the exit code."""
    if is_owners(options.directory):
        if options.journal is not None:
            raise ArgumentError(f"--journal: expected a run directory with it, got the client {options.directory}")
        return _forget_at_owner(options)
    if options.rows:
        addresses, gone = rows_in_file(options.rows), list[str]()
    else:
        addresses, gone = rows_where(options.directory, options.where)
    in_journal = {}
    if options.journal is not None:  # first, so that nothing is deleted if there is no such journal
        in_journal = {"journal": _forget_in_journal(options.journal, options.where, addresses)}
    found = erase(options.directory, addresses) | in_journal
    if options.json:
        print(json_text(found | {"gone": gone}))
        return 0
    journal = found.get("journal", {"predictions": 0, "labels": 0})
    if not found["rows"] and not journal["predictions"]:
        print(f"{_none(options)}; nothing was deleted")
    else:
        _print_deleted(found, _none(options))
    if journal["predictions"]:
        print(f"  journal: {journal['predictions']:,} predictions deleted, {journal['labels']:,} of them with a label")
    if gone:
        print(f"  gone: {shown(', '.join(gone))}; --where could not look there, name rows of these files by --rows")
    return 0


PLACES = {
    "remembered": "in memories",
    "kept": "kept for consolidation",
    "waiting": "waiting to be learned",
    "predicted": "predictions without a label",
    "compared": "kept to compare versions",
    "quarantined": "values in the quarantine",
}
"""Places from which rows were deleted, by the keys of the counts."""


def _none(options: argparse.Namespace) -> str:
    """Return the message that no row was found."""
    return f"no row has {shown(options.where)}" if options.where else f"{shown(options.rows)} lists no row"


def _print_deleted(found: dict[str, Any], none: str) -> None:
    """Print the deletions from a run, and the data that remains, with reasons."""
    if not found["rows"]:
        print(none)
        return
    quarantined = f", {found['quarantined']:,} in quarantine" if found["quarantined"] else ""
    print(f"{found['rows']:,} rows: {found['learned']:,} learned{quarantined}")
    print(f"  deleted: {_deleted(found)}")
    print(f"  verified: {found['states']:,} saved states contain none of these rows")
    if found["subtracted"]:
        print(f"  subtracted from the sums of the head: {found['subtracted']:,} rows; the next version is without them")
    if found["summed"]:
        print(
            f"  still in the sums of the model: {found['summed']:,} rows, because {found['summed_because']}; "
            "to remove them, start a new run without them"
        )
    if found["versions"]:
        print(f"  versions that learned them keep their weights: {', '.join(map(str, found['versions']))}")
    if found["outcomes"]:
        print(
            "  versions that keep past outcomes for rates (history.arrow: time, hashed keys and label of a row) until "
            f"these are older than the windows: {', '.join(map(str, found['outcomes']))}"
        )
    if (
        left := found["rows"]
        - found["learned"]
        - sum(found[state] for state in ("quarantined", "dropped", "waiting", "unknown"))
    ):
        print(
            f"  not learned yet: {left:,} rows; the run will learn them unless their files are removed before it reads "
            "them"
        )
    if found["unknown"]:
        print(f"  unknown: {found['unknown']:,} rows are in no file that the run has read; check fragment and offset")
    if found["elsewhere"]:
        print(f"  participants that keep no state here: {found['elsewhere']:,}; nothing is deleted on their own disks")


def _deleted(found: dict[str, Any]) -> str:
    """Return the number of rows deleted from each place.

    Example:
        >>> _deleted({"remembered": 3, "kept": 0}), _deleted({"remembered": 0})
        ('3 in memories', 'nothing; the run kept none of them')
    """
    parts = [f"{found[key]:,} {place}" for key, place in PLACES.items() if found.get(key)]
    return ", ".join(parts) or "nothing; the run kept none of them"


def is_owners(path: str) -> bool:
    """Return whether a path is the file of an owner's client.

    Raises:
        ArgumentError: It is the folder of the client's state.
    """
    if (Path(path) / "identity").is_file() and (Path(path) / "runs").is_dir():
        raise ArgumentError(
            f"{path}: expected a run directory or CLIENT.toml, got the state of a client; name its file"
        )
    return Path(path).suffix == ".toml" and Path(path).is_file()


def _forget_in_journal(folder: str, where: str | None, addresses: Any) -> dict[str, int]:
    try:
        from incr_core.serving import erase_in_journal
    except ModuleNotFoundError as missing:
        raise JobError(f"--journal: needs {missing.name}, which is not installed; pip install 'incr[serve]'") from None
    return erase_in_journal(folder, where=where, rows=addresses)


def _forget_at_owner(options: argparse.Namespace) -> int:
    runs = at_owner().erase(options.directory, options.where, options.rows)
    if options.json:
        print(json_text(runs))
        return 0
    if not runs:
        print("no run has had rows of this client; nothing was deleted")
        return 0
    if not any(found["rows"] for found in runs.values()):
        print(f"{_none(options)}; nothing was deleted")
        return 0
    for run, found in runs.items():
        print(
            f"run {run}: {found['rows']:,} rows, {found['learned']:,} of them learned\n"
            f"  deleted: {_deleted(found)}\n"
            f"  verified: {found['states']:,} saved states contain none of these rows"
        )
    print("versions that learned them keep their weights; the next message reports to the server how many they are")
    return 0
