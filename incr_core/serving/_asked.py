"""Predictions of one version: from the rows of a request to tensors, and from outputs of the model to answers."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from incr_core.batch import Inputs
from incr_core.data.encoding import BadRow
from incr_core.data.rates import Lookup
from incr_core.data.timeline import columns_asked
from incr_core.runs import Version
from incr_core.serving._request import columns_of, expect_columns, table_of

__all__ = ["INFINITE", "Asked", "Question", "ask"]

Answer = dict[str, Any]

INFINITE = "expected a finite answer, got another of the model; its numbers may be too large"

UNTAKEN = "expected a row that the model can take"


@dataclass(slots=True)
class Question:
    """The rows of one request, encoded by the version that will answer all of them.

    Attributes:
        asked: The version.
        given: The rows as received.
        inputs: The usable rows as tensors.
        usable: Positions of the usable rows; None if all are.
        refused: Column and reason of each other row.
    """

    asked: Asked
    given: Sequence[Mapping[str, Any]]
    inputs: Inputs
    usable: list[int] | None
    refused: dict[int, tuple[str | None, str]]

    @property
    def count(self) -> int:
        """Number of usable rows."""
        return len(self.given if self.usable is None else self.usable)

    def answer(self, told: Sequence[Answer | str]) -> dict[str, Any]:
        """Return the answer to the request.

        Args:
            told: For each usable row its answer, or the reason why there is none.
        """
        refused = self.refused
        rows = len(self.given)
        predictions: list[Answer | None] = [None] * rows
        for row, answer in zip(self.usable if self.usable is not None else range(rows), told, strict=True):
            if isinstance(answer, str):
                refused[row] = None, answer
            elif _is_finite(answer):
                predictions[row] = answer
            else:
                refused[row] = None, INFINITE
        return {
            "version": self.asked.version.number,
            "predictions": predictions,
            "refused": [{"row": row, "column": name, "reason": why} for row, (name, why) in sorted(refused.items())],
        }


class Asked:
    """A version that is loaded for prediction and does not learn."""

    def __init__(self, version: Version) -> None:
        self.version = version
        job = version.job
        self.columns = columns_of(job)
        self._prepares = job.features.prepare is not None
        # A function may derive any column from any other, so the columns that it needs are unknown here.
        wanted = columns_asked(job.encoder, job.rates(), job.stream.predict_at, labelled=False)
        self.required = [] if self._prepares else wanted
        self._plain, self._history = version.plain(), version.history
        self._names = version.answers
        self._learner = version.learner
        forwards = version.learner.forwards
        forwards.stay(training=False)
        # Torch's random state is global, and a forward may write to its model.
        self._alone: AbstractContextManager[Any] = threading.Lock() if forwards.one_at_a_time else nullcontext()

    def also_know(self, newer: Lookup, table: pa.Table) -> None:
        """Add outcomes to the rates from now on, besides those of the version. `table` contains the same outcomes."""
        self._plain.also_know(newer)
        self.version.history = table if self._history is None else pa.concat_tables([self._history, table])

    def question(self, rows: Sequence[Mapping[str, Any]]) -> Question:
        """Return rows as tensors.

        Raises:
            StreamError: A row has no value for a column, null included, or one of another kind.
        """
        inputs = None if self._prepares else self._plain.inputs(rows)
        if inputs is not None:
            return Question(self, rows, inputs, None, {})
        expect_columns(rows, self.required)
        encoded = self.version.encoded(table_of(rows, self.columns), "the request")
        refused: dict[int, tuple[str | None, str]] = {row.offset: (row.column, row.reason) for row in encoded.bad}
        usable = encoded.offsets.tolist()
        return Question(self, rows, encoded.batch.inputs, usable, refused)

    def table(self, rows: pa.Table) -> tuple[pa.Table, list[BadRow]]:
        """Return the predictions for a table of rows, in the form of `Version.answer`."""
        with self._alone:
            return self.version.answer(rows, "the request")

    def predict(self, inputs: Inputs, rows: int) -> list[Answer | str]:
        """Return the model's answer for each row, or the reason if the model cannot take it."""
        with self._alone:
            found, untaken = self._learner.answers(inputs, most=rows)
        columns = self._names.columns(found, rows - len(untaken))
        listed = [one.listed() for one in columns.values()]
        told = (dict(zip(columns, row, strict=True)) for row in zip(*listed, strict=True))
        if not untaken:
            return list(told)
        return [f"{UNTAKEN}, got {untaken[row]}" if row in untaken else next(told) for row in range(rows)]


def ask(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Return the answers to questions of one version, from one forward.

    Rows that are predicted together may differ in the last bits from rows predicted alone, because sums are rounded in
    another order.
    """
    there = [question for question in questions if question.count]
    told: list[Answer | str] = []
    if there:
        inputs = there[0].inputs if len(there) == 1 else _joined([question.inputs for question in there])
        told = there[0].asked.predict(inputs, sum(question.count for question in there))
    answers, start = [], 0
    for question in questions:
        answers.append(question.answer(told[start : start + question.count]))
        start += question.count
    return answers


def _joined(inputs: Sequence[Inputs]) -> Inputs:
    named = [one for one in inputs if isinstance(one, dict)]
    if named:
        return {name: torch.cat([one[name] for one in named]) for name in named[0]}
    return torch.cat([one for one in inputs if isinstance(one, torch.Tensor)])


def _is_finite(answer: Mapping[str, Any]) -> bool:
    return all(math.isfinite(value) for value in answer.values() if isinstance(value, float))
