"""A shadow: another version that predicts the same rows as the champion. Only the champion's answers are returned."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from incr_core.errors import ArgumentError
from incr_core.numerics import settle_arithmetic
from incr_core.runs import Version
from incr_core.serving._asked import Asked, Question
from incr_core.serving._metrics import Metric
from incr_core.storage import located, numbers_in

__all__ = ["NEWEST", "Shadow"]

NEWEST = "newest"
"""Instead of a number: the newest version, including one that the gate holds."""

PERIOD = 1.0
"""Seconds between two checks for a newer version."""

HALF = 0.5
"""Probability above which a row belongs to the second of two classes."""


class Shadow:
    """Compares another version's answers with the champion's, in a separate thread.

    No request waits for it: rows that arrive while it is busy are skipped and counted. It receives the inputs of the
    champion, with the rates of that moment.

    Args:
        directory: The run directory.
        wanted: The version's number, or `NEWEST`.

    Attributes:
        rows: Number of rows compared.
        skipped: Number of rows that arrived while it was busy.
        differences: Sum over rows of the mean absolute difference of the numbers in both answers.
        disagreements: Number of rows for which the two versions predict different classes.
        fault: Reason why it does not answer; None if it does.

    Raises:
        ArgumentError: `wanted` is neither.
        IncrError: There is no such version, or it cannot be read.
    """

    def __init__(self, directory: str | Path, wanted: str) -> None:
        if wanted != NEWEST and not (wanted.isascii() and wanted.isdigit()):
            raise ArgumentError(f'--shadow: expected the number of a version, or "{NEWEST}", got {wanted!r}')
        self.directory, self.wanted = located(directory), wanted
        self.rows = self.skipped = self.disagreements = 0
        self.differences = 0.0
        self.fault: str | None = None
        self._looked = time.monotonic()
        self.current = self._read(self._newest() if wanted == NEWEST else int(wanted))
        threads = self.current.version.job.learner.threads
        self._pool = ThreadPoolExecutor(1, "shadow", initializer=settle_arithmetic, initargs=(threads,))
        self._busy: Future[None] | None = None

    def _read(self, number: int) -> Asked:
        return Asked(Version.load(self.directory, number))

    def _newest(self) -> int:
        """Return the number of the newest version. Pruned versions have no folder."""
        return max(numbers_in(self.directory / "versions"), default=0)

    def watch(self, questions: Sequence[Question], answers: Sequence[Mapping[str, Any]]) -> None:
        """Predict the rows of these answered questions, too. Returns at once."""
        if self._busy is not None and not self._busy.done():
            self.skipped += sum(question.count for question in questions)
            return
        told = [(question, list(answer["predictions"])) for question, answer in zip(questions, answers, strict=True)]
        self._busy = self._pool.submit(self._compare, told)

    def answer(self, question: Question) -> dict[str, Any]:
        """Return the shadow's answer to a question that the champion has encoded."""
        told = self.current.predict(question.inputs, question.count) if question.count else []
        return {**question.answer(told), "version": self.current.version.number}

    def _compare(self, told: Sequence[tuple[Question, list[Any]]]) -> None:
        try:
            self._look()
            for question, predictions in told:
                mine = self.answer(question)["predictions"]
                for one, other in zip(predictions, mine, strict=True):
                    if one is not None and other is not None:
                        self._count(one, other)
            self.fault = None
        except Exception as error:  # an error of the shadow does not affect the champion
            self.fault = str(error)

    def _look(self) -> None:
        """Load the newest version if it is wanted and has changed."""
        if self.wanted == NEWEST and time.monotonic() - self._looked > PERIOD:
            self._looked = time.monotonic()
            if (number := self._newest()) > self.current.version.number:
                self.current = self._read(number)

    def _count(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
        numbers = [name for name, value in one.items() if isinstance(value, float)]
        self.rows += 1
        self.differences += sum(abs(one[name] - other[name]) for name in numbers) / max(len(numbers), 1)
        named = [name for name in one if name not in numbers]
        if named:
            self.disagreements += any(one[name] != other[name] for name in named)
        elif numbers == ["probability"]:
            self.disagreements += (one["probability"] >= HALF) != (other["probability"] >= HALF)

    def told(self) -> Iterable[Metric]:
        """Yield its counts as metrics."""
        yield (
            "incr_shadow_version",
            "gauge",
            "The version that predicts beside the champion.",
            [({}, self.current.version.number)],
        )
        yield "incr_shadow_rows_total", "counter", "Rows that both have answered.", [({}, self.rows)]
        yield (
            "incr_shadow_skipped_total",
            "counter",
            "Rows that arrived while the shadow was busy.",
            [({}, self.skipped)],
        )
        yield (
            "incr_shadow_difference_total",
            "counter",
            "Sum over rows of the mean absolute difference of the numbers in both answers.",
            [({}, self.differences)],
        )
        yield (
            "incr_shadow_disagreements_total",
            "counter",
            "Rows with different classes in both answers.",
            [({}, self.disagreements)],
        )
        yield "incr_shadow_failing", "gauge", "1 where the shadow does not answer.", [({}, int(self.fault is not None))]

    def describe(self) -> dict[str, Any]:
        """Return its counts for the page."""
        rows = max(self.rows, 1)
        return {
            "version": self.current.version.number,
            "rows": self.rows,
            "skipped": self.skipped,
            "mean_difference": self.differences / rows,
            "disagreements": self.disagreements / rows,
            "fault": self.fault,
        }

    def close(self) -> None:
        """Finish the current comparison, and end the thread."""
        self._pool.shutdown()
