"""`incr forget`: rows are erased from a run, from what an owner's client keeps, and from a journal."""

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
    """Delete rows from all that a run, or an owner's client, keeps of them; returns the exit code."""
    if is_owners(options.directory):
        if options.journal is not None:
            raise ArgumentError(f"--journal: expected a run directory with it, got the client {options.directory}")
        return _forget_at_owner(options)
    if options.rows:
        addresses, gone = rows_in_file(options.rows), list[str]()
    else:
        addresses, gone = rows_where(options.directory, options.where)
    found = erase(options.directory, addresses)
    if options.journal is not None:
        found |= {"journal": _forget_in_journal(options.journal, options.where, addresses)}
    if options.json:
        print(json_text(found | {"gone": gone}))
        return 0
    print(
        f"{found['rows']:,} rows: {found['learned']:,} learned, {found['quarantined']:,} in quarantine\n"
        f"  deleted: {found['remembered']:,} from memories, {found['kept']:,} kept to consolidate on, "
        f"{found['waiting']:,} waiting to be learned, {found['predicted']:,} predictions without a label yet, "
        f"{found['compared']:,} to compare versions on; their values from the quarantine\n"
        f"  read back: {found['states']:,} saved states, none of which holds any of them"
    )
    if found["subtracted"]:
        print(f"  taken out of the head's sums: {found['subtracted']:,} rows; the next version is one without them")
    if found["summed"]:
        print(
            f"  still in sums that answers are worked out from: {found['summed']:,} rows, whose files cannot be read "
            "as they were, or whose sums fade, have rates or lie with a server; learn the stream anew without them"
        )
    if found["versions"]:
        print(f"  versions that learned them keep their weights: {', '.join(map(str, found['versions']))}")
    if found["outcomes"]:
        print(
            "  versions that keep outcomes for rates (history.arrow: time, hashed keys and label of a row) until these "
            f"are older than their windows: {', '.join(map(str, found['outcomes']))}"
        )
    if (
        left := found["rows"]
        - found["learned"]
        - sum(found[state] for state in ("quarantined", "dropped", "waiting", "unknown"))
    ):
        print(
            f"  {left:,} are not learned yet: the run still will, when their labels come, unless their files are taken "
            "out before it reads them"
        )
    if found["unknown"]:
        print(f"  unknown: {found['unknown']:,} rows, in no file that the run has met; check fragment and offset")
    if "journal" in found:
        told = found["journal"]
        print(f"  of the journal: {told['predictions']:,} predictions, {told['labels']:,} of them with a label")
    if gone:
        print(f"  gone: {shown(', '.join(gone))}; --where could not look there, name rows of these files by --rows")
    if found["elsewhere"]:
        print(f"  participants that keep no state here: {found['elsewhere']:,}; nothing is deleted on their own disks")
    return 0


def is_owners(path: str) -> bool:
    """Whether that is an owner's file. ArgumentError where it is the folder of its state."""
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
    return erase_in_journal(Path(folder), where=where, rows=addresses)


def _forget_at_owner(options: argparse.Namespace) -> int:
    runs = at_owner().erase(options.directory, options.where, options.rows)
    if options.json:
        print(json_text(runs))
        return 0
    for run, found in runs.items():
        print(
            f"run {run}: {found['rows']:,} rows, {found['learned']:,} of them learned\n"
            f"  deleted: {found['remembered']:,} from memories, {found['kept']:,} kept to consolidate on, "
            f"{found['waiting']:,} waiting to be learned, {found['predicted']:,} predictions without a label yet\n"
            f"  read back: {found['states']:,} saved states, none of which holds any of them"
        )
    print("versions that learned them keep their weights, and the server hears how many they are with the next message")
    if not runs:
        print("no run has had rows of this client")
    return 0
