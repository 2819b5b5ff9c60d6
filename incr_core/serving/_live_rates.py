"""Rates at serving time, with the outcomes that were received since a version was committed.

A version has the outcomes that were known when it was committed. The journal receives more every minute, and a rate
over the last two hours depends on these. An outcome that the version has already is not counted again: this excludes
all outcomes in the files that the version has learned, up to the time of its last outcome. Outcomes of rows that are
set aside do not count.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from incr_core.data.rates import History, Questions
from incr_core.data.timeline import outcomes_of
from incr_core.data.times import NEVER
from incr_core.job import Job
from incr_core.registry import RunDirectory, loop_state
from incr_core.serving._asked import Asked
from incr_core.serving._journal import Journal, JournalledRow
from incr_core.serving._labelled_rows import LabelledRows

__all__ = ["LiveRates", "file_name", "is_read"]

MANY = 2000
"""Number of new outcomes above which they are sorted together with earlier ones. Fewer stay a separate layer."""


def file_name(mark: str, number: int) -> str:
    """Return the name of a file of labelled rows, by its journal and its number.

    Example:
        >>> file_name("9f3a01c2", 7)
        'feedback-9f3a01c2-000007.parquet'
    """
    return f"feedback-{mark}-{number:06d}.parquet"


def number_in(name: str, mark: str) -> int | None:
    """Return the number in the name of a journal's file; None for another file.

    Example:
        >>> number_in("days/feedback-9f3a01c2-000007.parquet", "9f3a01c2"), number_in("a.parquet", "9f3a01c2")
        (7, None)
    """
    found = re.search(rf"(?:^|/)feedback-{re.escape(mark)}-(\d+)\.parquet$", name)
    return None if found is None else int(found[1])


def is_read(job: Job, folder: Path) -> bool:
    """Return whether the stream of a job reads the files of labelled rows in a folder."""
    path, whole = job.stream.path, folder.resolve()
    return whole == Path(path).resolve() or fnmatch(str(whole / file_name("0", 0)), path)


class LiveRates:
    """Adds later outcomes to the rates of the version that answers.

    Args:
        directory: The run directory.
        journal: Stores the labels.
        rows: Converts them to rows of a stream.
        job: The run's job. Its stream reads the files that the journal writes.
    """

    def __init__(self, directory: Path, journal: Journal, rows: LabelledRows, job: Job) -> None:
        self._directory, self._journal, self._rows, self._job = directory, journal, rows, job
        self._rates = job.rates()
        self._lock = threading.Lock()
        self._asked: Asked | None = None
        self._learned, self._looked_up_to, self._undone = 0, 0, list[int]()
        self._through = 0  # place of the last label that was read
        self._aside: list[list[int]] = []  # time spans whose rows are set aside
        # Of the version: the last place in the files that it has learned, and the time of its last outcome.
        self._has = 0, -NEVER
        self._old, self._new = list[Questions](), list[Questions]()
        self._settled = History(self._rates).lookup()

    def begin(self, asked: Asked) -> None:
        """Prepare a version before it answers: add the outcomes that came after it."""
        with self._lock:
            first, stop = self._journal.places(self._last_file(asked))
            history = asked.version.history
            last = None if history is None else pc.max(history["known"]).as_py()
            self._asked, self._through, self._aside = asked, first - 1, self._set_aside()
            self._has = stop - 1, -NEVER if last is None else int(last)
            self._old, self._new = [], []
            self._settled = History(self._rates).lookup()
            self._look()

    def look(self) -> None:
        """Add the outcomes received since the last call to the rates of the version that answers."""
        with self._lock:
            self._look()

    def _look(self) -> None:
        before = self._through
        while found := self._journal.labelled(self._through):
            self._new.append(self._outcomes(*zip(*found, strict=True)))
            self._through = found[-1][0]
        if self._asked is None or self._through == before:
            return
        if sum(one.keys.shape[1] for one in self._new) > MANY:
            self._old, self._new = [*self._old, *self._new], []
            self._settled = self._history(self._old).lookup()
        newest = self._settled.plus(self._history(self._new).lookup())
        self._asked.also_know(newest, self._history([*self._old, *self._new]).table())

    def _outcomes(self, places: Sequence[int], rows: Sequence[JournalledRow]) -> Questions:
        """Return the outcomes of labelled rows for the rates, without those that the version has."""
        encoder, columns = self._job.encoder, self._rows
        times = {"predict_at": columns.predict_at, "label_at": columns.label_at}
        found = outcomes_of(columns.table(rows), "the journal", encoder, self._rates, **times)
        learned, last = self._has
        found.known[(np.array(places) <= learned) & (found.known <= last)] = NEVER
        return found.without(self._aside)

    def _set_aside(self) -> list[list[int]]:
        """Return the time spans whose rows the run has set aside, after a rollback or by its gate."""
        newest = RunDirectory.open(self._directory).latest()
        return [] if newest is None else loop_state(self._directory, newest).get("aside", [])

    def _history(self, told: Sequence[Questions]) -> History:
        history = History(self._rates)
        return history.plus(Questions.joined(told)) if told else history

    def _last_file(self, asked: Asked) -> int:
        """Return the number of the last file of labelled rows that a version has learned from; 0 for none."""
        number, undone = asked.version.number, asked.version.manifest.get("undone", [])
        first = self._looked_up_to + 1 if number >= self._looked_up_to and undone == self._undone else 1
        ledger = RunDirectory.open(self._directory).table("ledger", first, number)
        names = ledger["fragment"].unique().to_pylist() if ledger.num_rows else []  # no rows, no columns
        found = [number_in(name, self._journal.mark) for name in names]
        learned = max([number for number in found if number is not None], default=0)
        self._learned = learned if first == 1 else max(self._learned, learned)
        self._looked_up_to, self._undone = number, undone
        return self._learned
