"""Ledger of an owner: the rows that a run has had, their places, and a chain of hashes.

The ledger has a line of JSON for each kind and file, which is appended before the server is informed of the rows:

    {"generation": 7, "increment": 3, "state": "learned", "first": 120, "rows": 40, "fragment": "2013-01-04.csv",
     "ranges": [[0, 40]], "sha256": "..."}

The rows of a run are numbered in the order in which the server is informed of them. `first` is the number of a line's
first row, in the order of its ranges. So the server's ledger contains numbers of rows, and the owner's ledger resolves
them. Every hash covers the previous hash and the line, so the last one covers all lines. The first covers a secret in a
file beside the ledger, so that files and rows cannot be guessed from a hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from incr_core.data import ranges, row_ids
from incr_core.errors import CheckpointError
from incr_core.storage import storage, write_atomically

__all__ = ["STATES", "OwnerLedger"]

STATES = ("learned", "duplicate", "quarantined")


class OwnerLedger:
    """The ledger of one run at one owner, in the file `path`.

    Args:
        path: The file.
        mend: Whether to remove a line that a kill has cut off. Only the process that writes the ledger may do so.

    Attributes:
        rows: Number of rows in it.
        sha256: The hash of all lines.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> ledger = OwnerLedger(Path(folder.name, "ledger.jsonl"))
        >>> ledger.add("learned", row_ids(0, 5, 8), ["a.csv"], increment=0, generation=1)
        >>> ledger.add("learned", row_ids(0, 8, 9), ["a.csv"], increment=1, generation=2)
        >>> ledger.rows, ledger.addresses([2, 3])
        (4, [('a.csv', 7), ('a.csv', 8)])
        >>> ledger.go_back(1)
        >>> ledger.rows, OwnerLedger(ledger.path).sha256 == ledger.sha256
        (3, True)
        >>> ledger.add("learned", row_ids(0, 0, 6), ["a.csv"], increment=1, generation=2)
        Traceback (most recent call last):
        ...
        incr_core.errors.CheckpointError: ...ledger.jsonl: row 5 of a.csv is in it already; ...
        >>> other = OwnerLedger(Path(folder.name, "other.jsonl"))
        >>> other.add("learned", row_ids(0, 5, 8), ["a.csv"], increment=0, generation=1)
        >>> other.sha256 == ledger.sha256
        False
        >>> folder.cleanup()
    """

    def __init__(self, path: Path, *, mend: bool = True) -> None:
        self.path, self._mend = path, mend
        self._secret = path.with_suffix(".secret")
        self._lines: list[dict[str, Any]] = []
        self._taken: dict[str, list[tuple[int, int]]] = {}
        self._read()

    @property
    def rows(self) -> int:
        """Number of rows in the ledger."""
        return int(self._lines[-1]["first"] + self._lines[-1]["rows"]) if self._lines else 0

    @property
    def sha256(self) -> str:
        """The hash of all lines; "" without lines."""
        return str(self._lines[-1]["sha256"]) if self._lines else ""

    @property
    def lines(self) -> Sequence[dict[str, Any]]:
        """The lines."""
        return self._lines

    def rows_in(self, state: str, fragments: Sequence[str]) -> Tensor:
        """Return the ids of the rows in this state, (n,), if these are the fragments by number."""
        places = {name: number for number, name in enumerate(fragments)}
        mine = [line for line in self._lines if line["state"] == state]
        spans = [row_ids(places[line["fragment"]], *span) for line in mine for span in line["ranges"]]
        return torch.cat([torch.zeros(0, dtype=torch.int64), *spans])

    def states_of(self, addresses: Iterable[tuple[str, int]]) -> list[str | None]:
        """Return the state of each row, by file and offset; None for rows that are not in the ledger."""
        lines: dict[str, list[dict[str, Any]]] = {}
        for line in self._lines:
            lines.setdefault(line["fragment"], []).append(line)
        return [
            next(
                (
                    str(line["state"])
                    for line in lines.get(name, ())
                    if any(start <= offset < stop for start, stop in line["ranges"])
                ),
                None,
            )
            for name, offset in addresses
        ]

    def count(self, state: str) -> int:
        """Return the number of rows in this state."""
        return sum(line["rows"] for line in self._lines if line["state"] == state)

    def add(self, state: str, ids: Tensor, fragments: Sequence[str], *, increment: int, generation: int) -> None:
        """Append rows (n,) by their ids, durably.

        Raises:
            CheckpointError: A row is in the ledger already.
        """
        assert state in STATES, state
        if len(ids) and not self._lines and not self._secret.exists():
            write_atomically(self._secret, secrets.token_hex(16).encode())
        text = b""
        for number, pairs in ranges(ids).items():
            line: dict[str, Any] = {
                "generation": generation,
                "increment": increment,
                "state": state,
                "first": self.rows,
                "rows": sum(stop - start for start, stop in pairs),
                "fragment": fragments[number],
                "ranges": [list(pair) for pair in pairs],
            }
            line["sha256"] = self._chained(line)
            self._take(line)
            text += json.dumps(line).encode() + b"\n"
        if not text:
            return
        with storage(self.path), open(self.path, "ab") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def go_back(self, generation: int) -> None:
        """Remove the rows that were added after this generation of the client's state."""
        kept = [line for line in self._lines if line["generation"] <= generation]
        if len(kept) < len(self._lines):
            write_atomically(self.path, b"".join(json.dumps(line).encode() + b"\n" for line in kept))
        self._read()

    def addresses(self, numbers: Sequence[int]) -> list[tuple[str, int]]:
        """Return files and offsets of the learned rows among these numbers."""
        firsts = [line["first"] for line in self._lines]
        found = []
        for number in numbers:
            if not 0 <= number < self.rows:
                raise CheckpointError(f"{self.path}: expected a row below {self.rows:,}, got number {number:,}")
            line = self._lines[int(np.searchsorted(firsts, number, side="right")) - 1]
            left = number - line["first"]
            for start, stop in line["ranges"] if line["state"] == "learned" else ():
                if left < stop - start:
                    found.append((line["fragment"], start + left))
                    break
                left -= stop - start
        return found

    def ids(self, numbers: Tensor, fragments: Sequence[str]) -> Tensor:
        """Return the ids of the learned rows among these numbers (n,), for a stream with these fragments."""
        places = {name: number for number, name in enumerate(fragments)}
        found = self.addresses(numbers.tolist())
        return torch.cat([row_ids(places[name], offset, offset + 1) for name, offset in found] or [numbers[:0]])

    def _read(self) -> None:
        self._lines, self._taken = [], {}
        if not self.path.exists():
            return
        with storage(self.path):
            whole = self.path.read_bytes()
        for number, text in enumerate(whole.splitlines(keepends=True), 1):
            if not text.endswith(b"\n"):  # cut off by a kill, so it was never reported
                if self._mend:
                    write_atomically(self.path, whole[: -len(text)])
                break
            try:
                line = json.loads(text)
                told = line["sha256"]
            except (ValueError, KeyError, TypeError):
                line, told = {}, None
            if not line or told != self._chained(line):
                raise CheckpointError(f"{self.path}: line {number} is not as it was written; restore it from a copy")
            self._take(line)

    def _chained(self, line: dict[str, Any]) -> str:
        content = {key: value for key, value in line.items() if key != "sha256"}
        before = self.sha256 or (self._secret.read_text() if self._secret.exists() else "")
        return hashlib.sha256((before + json.dumps(content, sort_keys=True)).encode()).hexdigest()

    def _take(self, line: dict[str, Any]) -> None:
        """Append a line, unless one of its rows is in the ledger already."""
        taken = self._taken.setdefault(line["fragment"], [])
        both = sorted([*taken, *map(tuple, line["ranges"])])
        for (_, stop), (start, _) in pairwise(both):
            if start < stop:
                raise CheckpointError(
                    f"{self.path}: row {start} of {line['fragment']} is in it already; the source has changed, or "
                    "another run's state was put here"
                )
        merged = both[:1]
        for start, stop in both[1:]:
            if start == merged[-1][1]:
                merged[-1] = (merged[-1][0], stop)
            else:
                merged.append((start, stop))
        self._taken[line["fragment"]] = merged
        self._lines.append(line)
