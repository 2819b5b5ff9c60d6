"""What is told of a prediction later, checked; and predicted rows with their labels, as the table a stream reads."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import torch

from incr_core.data.encoding import Encoder, parsed
from incr_core.data.timeline import moments
from incr_core.errors import IncrError, StreamError
from incr_core.job import Job
from incr_core.serving._journal import JournalledRow
from incr_core.serving._request import Column, RequestError, columns_of, table_of

__all__ = ["LabelledRows"]

PREDICTED_AT, LABEL_AT = "predicted_at", "label_at"
"""What the columns of times are called where the job does not name them."""


class LabelledRows:
    """Checks labels as the stream will, and joins them to rows.

    Args:
        job: the run's.
        zoned: whether the times of its stream have a zone; its files must agree on that.
    """

    def __init__(self, job: Job, *, zoned: bool) -> None:
        encoder, stream = job.encoder, job.stream
        self._job, self._zoned, self._zone = job, zoned, stream.time_zone
        self._columns = columns_of(job)
        self.predict_at, self.label_at = stream.predict_at or PREDICTED_AT, stream.label_at or LABEL_AT
        self._labels = encoder.labels
        self._tokens = encoder.of_tokens
        self._classes = encoder.classes
        rates = [name for rate in job.rates() for name in (rate.outcome, rate.known_at) if name is not None]
        self._times = {self.label_at, *(rate.known_at for rate in job.rates() if rate.known_at is not None)}
        more = [*([encoder.weight] if encoder.weight else []), *rates]
        self.told = [name for name in dict.fromkeys(more) if name not in (*self._labels, self.label_at)]
        """The columns, besides the label, that may be told of a row later."""
        self._check = None if self._tokens else _of_labels(job)

    def kept(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What of a row to predict is worth keeping: the job's columns."""
        known = (*self._columns, self.predict_at)
        return {name: row[name] for name in known if name in row}

    def untimed(self, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the places of rows to predict whose time cannot be read; no label of such a row could be used."""
        told = {place: row[self.predict_at] for place, row in enumerate(rows) if row.get(self.predict_at) is not None}
        if told and all(isinstance(time, str) for time in told.values()):
            with suppress(StreamError):  # some with a zone, some without
                read = moments(pa.chunked_array([pa.array(list(told.values()))]), self.predict_at, self._zone)
                return [place for place, known in zip(told, read.known, strict=True) if not known]
        return [place for place, time in told.items() if not self._is_time(time)]

    def checked(self, told: Mapping[str, Any], of: JournalledRow) -> dict[str, Any]:
        """What is told of a row, its label and more columns, as it is kept; RequestError where it is of no use."""
        label = told.get("label")
        if label is None:
            raise RequestError(422, "label: expected one, got null; leave out what is not known yet")
        found = self._label(label)
        self._predicted(of)
        for name, value in told.items():
            if name in ("id", "label"):
                continue
            if name not in (*self.told, self.label_at):
                expected = ", ".join([self.label_at, *self.told])
                raise RequestError(422, f"expected a label and {expected} at most, got another column; leave it out")
            found[name] = self._told(name, value, of)
        weight = self._job.encoder.weight
        if weight is not None and (found.get(weight) is None or found[weight] < 0):
            raise RequestError(422, f"{weight}: expected the weight of the row, at least 0, got another or none")
        return found

    def _told(self, name: str, value: Any, of: JournalledRow) -> Any:
        if name in self._times:
            if value is None:
                return None
            micros = self._micros(value, name)
            if name == self.label_at and micros < self._predicted(of):
                raise RequestError(
                    422, f"{name}: expected a time not before that of the prediction, got an earlier one"
                )
            return micros
        if value is None or (isinstance(value, int | float) and abs(value) <= sys.float_info.max):  # not NaN either
            return None if value is None else float(value)
        raise RequestError(422, f"{name}: expected a number or null, got another value")

    def _label(self, label: Any) -> dict[str, Any]:
        """The label columns of a row."""
        if len(self._labels) > 1:
            if not isinstance(label, dict) or set(label) != set(self._labels):
                raise RequestError(422, f"label: expected an object of {', '.join(self._labels)}, got something else")
            columns = dict(label)
        else:
            columns = {self._labels[0]: label}
        if self._check is None:
            if not (isinstance(label, list) and label and all(type(token) is int for token in label)):
                raise RequestError(422, "label: expected a list of tokens, got something else")
            return columns
        try:
            table = pa.table({name: pa.array([value]) for name, value in columns.items()} | {_ROW: [0.0]})
            found = self._check.encode(table, torch.zeros(1, dtype=torch.int64), "the label")
        except (IncrError, pa.ArrowException, UnicodeError, OverflowError):
            raise RequestError(422, "label: expected one of the run's kind, got another") from None
        if found.bad:
            raise RequestError(422, f"label: {found.bad[0].reason}")
        target = found.batch.targets
        if len(self._labels) > 1:
            return {name: int(value) for name, value in zip(self._labels, target[0].tolist(), strict=True)}
        if self._classes is not None and self._job.learner.objective != "multilabel":
            return {self._labels[0]: self._classes[int(target.item())]}  # 1, 1.0, "1" and true may be one class
        if self._classes is None and not isinstance(label, list):
            value = target.item()
            return {self._labels[0]: int(value) if self._job.learner.objective in ("binary", "multiclass") else value}
        return columns

    def table(self, rows: Sequence[JournalledRow]) -> pa.Table:
        """Rows and labels as a table: every column of a kind that does not depend on which rows these are."""
        # Times may be text in one request, and epoch seconds in another.
        kinds = {name: column for name, column in self._columns.items() if name != self.predict_at}
        features = table_of([one.row for one in rows], kinds)
        columns = {name: _settled(features, name, column, len(rows)) for name, column in kinds.items()}
        predicted = self._all_predicted(rows)
        columns[self.predict_at] = self._clock(predicted)
        told = [one.told or {} for one in rows]
        for name in self._labels:
            columns[name] = pa.array([one.get(name) for one in told])
        for name in self.told:
            values = [one.get(name) for one in told]
            columns[name] = self._clock(values) if name in self._times else pa.array(values, pa.float64())
        columns[self.label_at] = self._clock(self._known(rows, predicted))
        return pa.table(columns)

    def known(self, rows: Sequence[JournalledRow]) -> list[int]:
        """When the label of each was known, in microseconds."""
        return self._known(rows, self._all_predicted(rows))

    def _known(self, rows: Sequence[JournalledRow], predicted: Sequence[int]) -> list[int]:
        known = [one.told_at if one.told is None else one.told.get(self.label_at) or one.told_at for one in rows]
        return list(map(max, known, predicted))

    def _predicted(self, one: JournalledRow) -> int:
        """When a row was to be predicted, in microseconds: as it says itself, or else when it was."""
        told = one.row.get(self.predict_at)
        return one.at if told is None else self._micros(told, self.predict_at)

    def _all_predicted(self, rows: Sequence[JournalledRow]) -> list[int]:
        """As `_predicted`, of many rows."""
        told = [one.row.get(self.predict_at) for one in rows]
        if all(isinstance(time, str) for time in told):
            try:
                read = moments(pa.chunked_array([pa.array(told)]), self.predict_at, self._zone)
                if read.known.all():
                    return [int(time) for time in read.values]
            except StreamError:  # some with a zone, some without
                pass
        return [self._predicted(one) for one in rows]

    def _is_time(self, told: Any) -> bool:
        try:
            self._micros(told, self.predict_at)
        except StreamError:
            return False
        return True

    def _micros(self, told: Any, name: str) -> int:
        """The microseconds of a time."""
        column = table_of([{name: told}], {name: Column("time")})[name]
        read = moments(column, name, self._zone, late=name in self._times)
        if not read.known[0]:
            raise RequestError(422, f"{name}: expected a time, got another value")
        return int(read.values[0])

    def _clock(self, micros: Sequence[int | None]) -> pa.Array:
        return pa.array(micros, pa.timestamp("us", tz="UTC" if self._zoned else None))


_ROW = "\0row"


def _of_labels(job: Job) -> Encoder:
    """What encodes the labels alone."""
    encoder, capacity = job.encoder, job.features.capacity
    asked: dict[str, Any] = {"objective": encoder.objective, "classes": encoder.classes, "capacity": capacity}
    return Encoder(encoder.labels, [_ROW], [], widths={}, **asked)


def _settled(table: pa.Table, name: str, column: Column, rows: int) -> pa.Array:
    kinds = {"list": pa.list_(pa.float64()), "number": pa.float64(), "task": pa.int64()}
    kind = kinds.get(column.kind, pa.string())
    if name not in table.column_names:
        return pa.nulls(rows, kind)
    values = parsed(table[name], name, "the journal")[0] if column.kind == "number" else table[name]
    return values.cast(kind)
