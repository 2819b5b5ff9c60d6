"""Predictions into the journal, labels behind them, and both together into files that a stream reads."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from incr_core.data.times import Instants, duration, leaps
from incr_core.errors import ArgumentError, IncrError
from incr_core.job import Job
from incr_core.serving._asked import Question
from incr_core.serving._champion import Champion
from incr_core.serving._journal import Journal, JournalledRow
from incr_core.serving._labelled_rows import LabelledRows
from incr_core.serving._live_rates import LiveRates, file_name, is_read
from incr_core.serving._request import RequestError, document_in
from incr_core.storage import parquet_bytes, storage, write_atomically

__all__ = ["Feedback", "require_raw_rows"]

TIDY = 1.0
"""Seconds after which the journal is tidied, and labels that other processes received are read."""

ENDING = 2.0
"""Seconds to wait at the end for another process that leads and ends too."""


class Feedback:
    """What a server keeps of its predictions, and what it hears of them.

    Args:
        journal: where predictions and labels are kept.
        job: the run's.
        folder: where labelled rows are written to, as Parquet files.
        every: seconds between two of them.
    """

    def __init__(self, journal: Journal, job: Job, folder: Path, every: float = 60.0) -> None:
        require_raw_rows(job.features.prepare)
        self.journal, self.folder, self.every = journal, folder, every
        with storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._rows = LabelledRows(job, zoned=job.stream.time_zone is not None or _zoned(folder, job))
        self._tick = duration(str(job.stream.every)) if job.stream.timed else None
        self._leap = duration(job.stream.max_leap, "stream.max_leap")
        self._waiting: list[tuple[int, int]] = []  # labels that are in no file: their places, when they were known
        self.live: LiveRates | None = None
        """What lets rates know what was told since, where the run's stream reads what is written here."""
        self.counts: Counter[str] = Counter(accepted=0, unknown=0, gone=0, repeated=0, wrong=0)
        """What became of the labels that were told, since this server began."""
        self.fault: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._join, name="labelled", daemon=True)

    def attend(self, champion: Champion) -> None:
        """Let whoever answers know the outcomes that were told since that version was committed."""
        job = champion.current.version.job
        if job.rates() and is_read(job, self.folder):
            self.live = LiveRates(champion.directory, self.journal, self._rows, job)
            champion.tell(self.live.begin)

    def keep(self, questions: Sequence[Question], answers: Sequence[dict[str, Any]]) -> None:
        """Keep the rows that were answered, and put their ids beside the answers.

        A row whose time of prediction cannot be read is refused, as the stream would refuse it with its label.
        """
        for question, answer in zip(questions, answers, strict=True):
            self._refuse_untimed(question, answer)
        kept = [
            (self._rows.kept(row), prediction)
            for question, answer in zip(questions, answers, strict=True)
            for row, prediction in zip(question.given, answer["predictions"], strict=True)
            if prediction is not None
        ]
        ids = iter(self.journal.record(kept, questions[0].asked.version.number) if kept else ())
        for answer in answers:
            answer["ids"] = [None if prediction is None else next(ids) for prediction in answer["predictions"]]

    def _refuse_untimed(self, question: Question, answer: dict[str, Any]) -> None:
        predictions, name = answer["predictions"], self._rows.predict_at
        untimed = [row for row in self._rows.untimed(question.given) if predictions[row] is not None]
        for row in untimed:
            predictions[row] = None
            answer["refused"].append({"row": row, "column": name, "reason": "expected a time, got another value"})
        if untimed:
            answer["refused"].sort(key=lambda one: one["row"])

    def take(self, body: bytes, most: int) -> dict[str, Any]:
        """The labels in a body, {"feedback": [{"id": ..., "label": ...}, ...]}; what was accepted is on the disk.

        Raises RequestError where none of them is of use.
        """
        told = _told_in(body, most)
        good: list[tuple[int, str, dict[str, Any]]] = []
        refused: dict[int, RequestError] = {}
        rows = self.journal.rows(name for one in told if isinstance(name := one.get("id"), str))
        for place, one in enumerate(told):
            try:
                label = self._checked(one, rows)
                good.append((place, one["id"], label))
            except RequestError as error:
                refused[place] = error
        new = self.journal.label([(name, label) for _, name, label in good]) if good else []
        again = [name for (_, name, _), is_new in zip(good, new, strict=True) if not is_new]
        rows = self.journal.rows(again) if again else {}
        for (place, name, _), is_new in zip(good, new, strict=True):
            if is_new:
                self.counts["accepted"] += 1
            elif rows.get(name) is None:  # dropped a moment ago
                refused[place] = self._gone()
            else:
                self.counts["repeated"] += 1
                refused[place] = RequestError(409, "id: expected one without a label, got one that has its label")
        if len(refused) == len(told):
            raise refused[0]
        if self.live is not None:
            self._try(self.live.look)  # the labels are kept, whatever becomes of rates
        return {
            "accepted": sum(new),
            "refused": [
                {"feedback": at, "status": one.status, "reason": str(one)} for at, one in sorted(refused.items())
            ],
        }

    def _checked(self, one: Mapping[str, Any], rows: Mapping[str, JournalledRow | None]) -> dict[str, Any]:
        name = one.get("id")
        if not isinstance(name, str) or name not in rows:
            self.counts["unknown"] += 1
            raise RequestError(404, "id: expected one of a prediction in this journal, got another")
        row = rows[name]
        if row is None:
            raise self._gone()
        try:
            return self._rows.checked(one, row)
        except IncrError as error:
            self.counts["wrong"] += 1
            raise error if isinstance(error, RequestError) else RequestError(422, str(error)) from None

    def _gone(self) -> RequestError:
        self.counts["gone"] += 1
        return RequestError(410, "id: expected one of a prediction that is kept, got an older one")

    def start(self) -> None:
        """Write what a killed server has left to be written, and continue in a thread.

        Raises:
            StorageError: The journal or the folder cannot be written.
        """
        if self.journal.lead():
            self.write()
        self._thread.start()

    def write(self) -> None:
        """Write the labelled rows that are in no file yet; where increments are ticks, once their tick is over.

        A run that has learned a part of a tick has taken all of it, and what comes later counts as of the next one.
        """
        for number, rows in self.journal.due(None if self._tick is None else self._over(self._tick)):
            path = self.folder / file_name(self.journal.mark, number)
            if not path.exists():  # a run may have read it already; then it must stay as it is
                write_atomically(path, parquet_bytes(self._rows.table(rows)))
            self.journal.written(number)
        self.fault = None
        self.journal.tidy()

    def _over(self, tick: int) -> int:
        """The place of the first label of the tick that is not over: something that was known in it has been told.

        A time that leaps ahead, as the stream counts it, says nothing of ticks, and need not wait for its own.
        """
        dealt = self.journal.dealt()
        self._waiting = [one for one in self._waiting if one[0] >= dealt]
        last = self._waiting[-1][0] if self._waiting else dealt - 1
        while found := self.journal.labelled(last):
            times = self._rows.known([row for _, row in found])
            self._waiting += zip([place for place, _ in found], times, strict=True)
            last = found[-1][0]
        if not self._waiting:
            return dealt
        known = np.array([at for _, at in self._waiting], dtype=np.int64)
        ahead = self._ahead(known)
        begun = known[~ahead].max() // tick * tick
        over = int(np.argmax((known >= begun) & ~ahead))
        if (ahead[:over] & ~self._ahead(known[:over])).any():
            return dealt  # in a file without others the stream would take such a time for what it says
        return self._waiting[over][0]

    def _ahead(self, known: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which of these times, in one file, would leap ahead."""
        return leaps(Instants(known, np.ones(len(known), dtype=bool), np.zeros(len(known), dtype=bool)), self._leap)

    def close(self) -> None:
        """Write what is left, unless another process leads, and close the journal."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._try(self._last_write)
        self.journal.close()

    def _last_write(self) -> None:
        if self.journal.lead(ENDING):
            self.write()

    def _join(self) -> None:
        written = time.monotonic()
        while not self._ended.wait(min(self.every, TIDY)):
            # After a fault it writes at once, because only that shows that it can.
            due = self.fault is not None or time.monotonic() - written >= self.every
            self._try(self._written if due else self._tidied)
            if due:
                written = time.monotonic()

    def _written(self) -> None:
        if self.journal.lead():
            self.write()
        self.fault = None
        self._look()

    def _tidied(self) -> None:
        if self.journal.lead():
            self.journal.tidy()
        self._look()

    def _look(self) -> None:
        """Count the labels that other processes received in the rates."""
        if self.live is not None:
            self.live.look()

    def _try(self, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:  # what is in the journal is not lost: it is tried again
            if self.fault is None:
                print(f"incr: {error}", file=sys.stderr, flush=True)
            self.fault = str(error)


def require_raw_rows(prepare: str | None) -> None:
    """Raise ArgumentError if a function prepares the rows: a journal keeps the columns of the model, not raw ones."""
    if prepare is not None:
        raise ArgumentError(
            "journal: expected a job without features.prepare, whose raw rows a journal does not keep, got "
            f"{prepare!r}; serve without a journal, and write labelled rows to the stream yourself"
        )


def _told_in(body: bytes, most: int) -> list[dict[str, Any]]:
    document = document_in(body)
    told = document.get("feedback", [document]) if isinstance(document, dict) else None
    if not isinstance(told, list) or not told or not all(isinstance(one, dict) for one in told):
        raise RequestError(
            422,
            'body: expected {"feedback": [{"id": ..., "label": ...}, ...]}, or {"id": ..., "label": ...} alone, '
            "got something else",
        )
    if len(told) > most:
        raise RequestError(413, f"feedback: expected at most {most:,}, got {len(told):,}; tell it in several requests")
    return told


def _zoned(folder: Path, job: Job) -> bool:
    """Whether the times in the files that are there already have a zone; ours must be like them."""
    for path in sorted(folder.glob("*.parquet")):
        schema = pq.read_schema(path)
        if job.stream.predict_at in schema.names:
            return getattr(schema.field(job.stream.predict_at).type, "tz", None) is not None
    return False
