"""Account of the privacy that an owner has spent: a line for each answer that was computed from rows.

    {"run": "5ec3...", "generation": 7, "question": "9f86...", "unit": "rows", "noise": 1.0, "times": 2,
     "rows": {"2013-01-04.csv": [[0, 40]]}}

A line is on the disk before its answer is computed, and is never removed: not after a kill, not for a server that goes
back to an earlier commit, and not for another run. A repeated question has the same answer, since its noise is drawn
from a secret and the question, and costs nothing.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from incr_core.errors import CheckpointError, JobError
from incr_core.job import ClientPrivacy
from incr_core.privacy import Accountant
from incr_core.storage import storage, sync_all, write_atomically

__all__ = ["PrivacyBudget", "Rows"]

Rows = Mapping[str, Sequence[tuple[int, int]]]
"""Rows as ranges of offsets [start, stop), by file."""


class PrivacyBudget:
    """The account of one owner, in the file `path`; None: in memory.

    Args:
        path: The file.
        wanted: The promise, with an epsilon.
        simulated: Whether payments may be undone, or lost with the machine.

    Example:
        >>> budget = PrivacyBudget(None, ClientPrivacy(epsilon=10.0, noise=1.0))
        >>> [budget.pay(str(number), 1, {}, run="r", generation=number) for number in range(5)]
        [True, True, True, False, False]
        >>> budget.pay("2", 1, {}, run="r", generation=2), round(budget.epsilon(), 2)
        (True, 9.01)
    """

    def __init__(self, path: Path | None, wanted: ClientPrivacy, *, simulated: bool = False) -> None:
        assert wanted.epsilon is not None, "there is a promise"
        self._path, self.wanted, self.limit, self._simulated = path, wanted, wanted.epsilon, simulated
        self._lines: list[Mapping[str, Any]] = [] if path is None else [*_read(path)]
        self._paid = {str(line["question"]) for line in self._lines}
        self._most, self._measured = 0.0, 0  # epsilon of the costliest row, and the number of lines that it covers
        if wanted.unit == "client" and any(line["unit"] != "client" for line in self._lines):
            raise JobError(
                f'privacy.unit: expected "rows" or "row", as when {path or "the run"} began, got "client"; put it '
                "back: earlier answers have hidden single rows only"
            )

    @property
    def lines(self) -> list[Mapping[str, Any]]:
        """All payments."""
        return list(self._lines)

    def go_back(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Replace the payments by these. Only a simulation may do so, which makes no promise to anyone."""
        assert self._simulated, "the payments of an owner cannot be undone"
        self._lines, self._most, self._measured = [*lines], 0.0, 0
        self._paid = {str(line["question"]) for line in self._lines}
        if self._path is not None:
            write_atomically(self._path, b"".join(json.dumps(line).encode() + b"\n" for line in self._lines))

    def epsilon(self) -> float:
        """Return the epsilon that has been spent. With a budget for each row, it is that of the costliest row."""
        if self.wanted.unit != "row":
            return self._spent(self._lines, None).epsilon(self.wanted.delta)
        for place in range(self._measured, len(self._lines)):
            spent = self._spent(self._lines[: place + 1], self._lines[place]["rows"])
            self._most = max(self._most, spent.epsilon(self.wanted.delta))
        self._measured = len(self._lines)
        return self._most

    def affords(self, times: int, rows: Rows, *, run: str, generation: int | None = None) -> bool:
        """Return whether the budget pays for this number of steps on these rows.

        Args:
            times: Number of steps of the account.
            rows: The rows.
            run: The run.
            generation: Generation of the client's state, if it may have been taken back. Later payments of the run are
                then not counted, since the same questions will be repeated.
        """
        before = [
            line
            for line in self._lines
            if generation is None or line["run"] != run or int(line["generation"]) <= generation
        ]
        return not times or self._buys(before, times, rows)

    def pay(self, question: str, times: int, rows: Rows, *, run: str, generation: int) -> bool:
        """Pay for the answer to a question, durably.

        False if the budget is too small, and the question must not be answered.
        """
        if question in self._paid or not times:
            return True
        if not self._buys(self._lines, times, rows):
            return False
        line = {
            "run": run,
            "generation": generation,
            "question": question,
            "unit": self.wanted.unit,
            "noise": self.wanted.noise,
            "times": times,
            "rows": {name: [list(pair) for pair in pairs] for name, pairs in rows.items()},
        }
        if self._path is not None:
            _append(self._path, json.dumps(line).encode() + b"\n", durably=not self._simulated)
        self._lines.append(line)
        self._paid.add(question)
        return True

    def _buys(self, lines: Sequence[Mapping[str, Any]], times: int, rows: Rows) -> bool:
        of = rows if self.wanted.unit == "row" else None
        after = self._spent(lines, of).and_then(self.wanted.noise, times=times)
        return after.epsilon(self.wanted.delta) <= self.limit

    def _spent(self, lines: Sequence[Mapping[str, Any]], rows: Rows | None) -> Accountant:
        """Return the account of all payments, or of those for any of these rows, which bounds the cost of each row."""
        account = Accountant()
        for line in lines:
            if rows is None or _meet(line["rows"], rows):
                account.add(float(line["noise"]), times=int(line["times"]))
        return account


def _meet(one: Rows, other: Rows) -> bool:
    """Return whether a row is in both.

    Example:
        >>> _meet({"a": [(0, 5)]}, {"a": [(5, 9)]}), _meet({"a": [(0, 5)]}, {"a": [(4, 9)], "b": [(0, 1)]})
        (False, True)
    """
    return any(
        start < stop and begin < end
        for name in one.keys() & other.keys()
        for start, end in one[name]
        for begin, stop in other[name]
    )


def _append(path: Path, line: bytes, *, durably: bool) -> None:
    """Write a line completely or not at all. The next line would otherwise continue half a line."""
    with storage(path), open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durably:
                os.fsync(file.fileno())
                if not before:  # the file is new
                    sync_all([path.parent])
        except OSError:
            file.truncate(before)
            raise


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an account. A line that a kill has cut off was never answered, and is removed."""
    if not path.exists():
        return []
    with storage(path):
        whole = path.read_bytes()
    found: list[dict[str, Any]] = []
    for number, text in enumerate(whole.splitlines(keepends=True), 1):
        if not text.endswith(b"\n"):
            write_atomically(path, whole[: -len(text)])
            break
        try:
            line = json.loads(text)
            if not {"run", "generation", "question", "unit", "noise", "times", "rows"} <= line.keys():
                raise ValueError
        except (ValueError, AttributeError):
            raise CheckpointError(
                f"{path}: line {number} is not as it was written; restore it from a copy: without it the "
                "spent budget is unknown"
            ) from None
        found.append(line)
    return found
