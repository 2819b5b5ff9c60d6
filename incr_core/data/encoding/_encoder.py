"""Encode: Arrow tables to batches, column by column, never row by row."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from incr_core.batch import Batch, Inputs
from incr_core.data._row_ids import OFFSET_BITS
from incr_core.data.encoding._columns import Fault, numbers
from incr_core.data.encoding._hashing import ColumnHash, indexed, text
from incr_core.data.encoding._infer import column_kinds, find_classes
from incr_core.data.encoding._matrix import hash_pairs, numeric_matrix
from incr_core.data.encoding._quarantine import BadRow
from incr_core.data.encoding._targets import ZERO_ONE, check_labels, flags, sets, tokens
from incr_core.data.encoding._widths import check_widths
from incr_core.errors import ArgumentError, StreamError

__all__ = ["Encoded", "Encoder", "column_kinds", "find_classes"]


@dataclass(slots=True)
class Encoded:
    """The usable rows of a table as a batch, the others as `bad`; `good` (B,) says which is which, None means all."""

    batch: Batch
    bad: list[BadRow]
    good: np.ndarray[Any, np.dtype[np.bool_]] | None = None


class Encoder:
    """Turns a table into a batch.

    It is made for rows of one shape, and nothing that it encodes changes it.

    Inputs are a float32 tensor (B, N) where there are only numeric columns, else {"numeric": (B, N) float32,
    "categorical": (B, C, 2) int64}. A numeric column of lists (pixels, an embedding) takes as many columns as its lists
    are long: `widths` says how long those of a column are; columns that it does not name hold one number a row. None:
    a `Stream` looks into its data. A null number is missing, which is legitimate: it becomes NaN, for the model to
    impute. NaN or infinity *in the data* is a bad row.

    A category becomes two independent hashes of its text into [0, buckets): add two embeddings, and two categories that
    collide in one hash still differ in the other. So unseen categories need no vocabulary, and null is one of its own.

    tasks: the model is told the task of each row, a number below this: inputs are a dict with "task" (B,) int64 too.
    guesses: where it is not told of rows to predict, it guesses.

    Targets: binary 0.0 or 1.0 (of two `classes` the second is positive); multiclass the index in `classes` (int64), or
    a class number, below `capacity` where there is one; multilabel (B, L) of 0 and 1, from a column of lists or several
    label columns; next_token (B, T) int64, whose inputs are the same tokens, one earlier, of `vocabulary`; regression
    the label as float64; anything else the label as float32.

    >>> encoder = Encoder("late", ["distance"], ["carrier"], objective="binary", classes=None)
    >>> table = pa.table({"late": [0, 1], "distance": [1.0, None], "carrier": ["AA", "UA"]})
    >>> batch = encoder.encode(table, torch.arange(2), "day.csv").batch
    >>> batch.inputs["numeric"].flatten(), batch.inputs["categorical"].shape, batch.targets
    (tensor([1., nan]), torch.Size([2, 1, 2]), tensor([0., 1.]))
    """

    def __init__(
        self,
        label: str | Sequence[str] | None,
        numeric: Sequence[str],
        categorical: Sequence[str],
        *,
        objective: str,
        classes: Sequence[Any] | None,
        weight: str | None = None,
        buckets: int = 1024,
        task: str | None = None,
        capacity: int | None = None,
        vocabulary: int | None = None,
        tasks: int | None = None,
        guesses: bool = False,
        widths: Mapping[str, int] | None = None,
    ) -> None:
        self.tasks = tasks
        self.guesses = guesses
        self.labels = [label] if isinstance(label, str) else list(label or ())
        self.label = self.labels[0] if self.labels else None
        self.weight, self.task, self.capacity, self.vocabulary = weight, task, capacity, vocabulary
        self.numeric, self.categorical = list(numeric), list(categorical)
        self.objective, self.buckets = objective, buckets
        self.classes = None if classes is None else list(classes)
        check_labels(objective, self.labels, vocabulary, len(self.inputs))
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        repeated = repeated or [name for name in self.labels if name in self.inputs]
        if repeated:
            raise ArgumentError(
                f"features: expected every column once, got {', '.join(repeated)} twice "
                "(the label is no feature); take one out"
            )
        if buckets < 2:
            raise ArgumentError(f"features.buckets: expected at least 2, got {buckets}")
        if objective == "binary" and self.classes is not None and len(self.classes) != 2:
            raise ArgumentError(
                f"features.classes: expected two for a binary objective, got {len(self.classes)}; "
                'name two, or set objective = "multiclass"'
            )
        self.widths = {} if widths is None else {name: widths[name] for name in self.listed if name in widths}
        self.is_measured = widths is not None
        self._hashes = {name: ColumnHash(name) for name in self.categorical}
        self._index = self._label_index()

    @property
    def inputs(self) -> list[str]:
        """The columns that features are made of."""
        return [*self.numeric, *self.categorical]

    @property
    def columns(self) -> list[str]:
        """The columns a labelled table must have."""
        extra = [name for name in (*self.labels, self.weight, self.task) if name is not None]
        return [*self.inputs, *dict.fromkeys(extra)]

    @property
    def asked(self) -> list[str]:
        """The columns a table to predict must have."""
        return self.labels if self.of_tokens else self.inputs

    @property
    def asks_task(self) -> bool:
        """Whether rows to predict must tell their task: the model is told it, and cannot guess."""
        return self.task is not None and self.tasks is not None and not self.guesses

    def without_task(self) -> Encoder:
        """The same, for rows that do not tell their task."""
        other = copy.copy(self)
        other.task = other.tasks = None
        return other

    @property
    def of_tokens(self) -> bool:
        """Whether rows are sequences of tokens."""
        return self.objective == "next_token"

    @property
    def listed(self) -> list[str]:
        """The columns whose lists must all be of one length."""
        return self.labels if self.of_tokens else self.numeric

    @property
    def width(self) -> int:
        """N: how many numbers, or tokens, a row's inputs take."""
        if self.of_tokens:
            return self.widths.get(self.labels[0], 1) - 1
        return sum(map(len, self.places.values()))

    @property
    def places(self) -> dict[str, range]:
        """Where among a row's N numbers those of each numeric column are.

        >>> columns = ["at", "pixels", "far"]
        >>> encoder = Encoder("late", columns, [], objective="binary", classes=None, widths={"pixels": 3})
        >>> encoder.places["far"]
        range(4, 5)
        """
        found, start = {}, 0
        for name in self.numeric:
            found[name] = range(start, start + self.widths.get(name, 1))
            start = found[name].stop
        return found

    def measured(self, widths: Mapping[str, int]) -> Encoder:
        """The same, for lists of these lengths.

        >>> Encoder("y", ["pixels"], [], objective="binary", classes=None).measured({"pixels": 3}).width
        3
        """
        other = copy.copy(self)
        other.widths = {name: widths[name] for name in self.listed if name in widths}
        other.is_measured = True
        return other

    def check(self, table: pa.Table, place: str, labelled: bool = True) -> None:
        """StreamError where a table as a whole is of another shape; `place` names its file.

        labelled: whether labels are there; where not, sequences of tokens may lack the last one.
        """
        check_widths(table, self.widths, self.listed, place, spare=int(self.of_tokens and not labelled))

    def empty(self) -> Batch:
        """A batch of no rows, of the right widths and dtypes."""
        rows = torch.zeros(0, dtype=torch.int64)
        inputs: Inputs = torch.zeros(0, self.width, dtype=torch.int64 if self.of_tokens else torch.float32)
        if self.categorical:
            inputs = {
                "numeric": torch.zeros(0, self.width),
                "categorical": torch.zeros(0, len(self.categorical), 2, dtype=torch.int64),
            }
        parts = {"multilabel": (len(self._index or self.labels),), "next_token": (self.width,)}.get(self.objective, ())
        targets = torch.zeros(0, *parts, dtype=torch.from_numpy(np.zeros(0, self._target_type)).dtype)
        task = None if self.task is None else torch.zeros(0, dtype=torch.int64)
        weights = None if self.weight is None else torch.zeros(0)
        return Batch(self._told(inputs, task), targets, weights, task, rows)

    def _told(self, inputs: Inputs, task: Tensor | None) -> Inputs:
        """The inputs, with the task where the model is told it."""
        if self.tasks is None or task is None:
            return inputs
        return {**(inputs if isinstance(inputs, dict) else {"numeric": inputs}), "task": task}

    def encode(
        self,
        table: pa.Table,
        rows: Tensor,
        place: str,
        labelled: bool | np.ndarray[Any, np.dtype[np.bool_]] = True,
    ) -> Encoded:
        """Encode a table whose rows have the ids `rows` (B,); `place` names its file in errors.

        labelled: whether labels are there, for all rows or for each (B,); where not, the target is 0.
        """
        faults: list[Fault] = []
        known = np.full(len(table), labelled) if isinstance(labelled, bool) else labelled
        found, targets = self._inputs_and_targets(table, place, known, faults)
        numeric = torch.from_numpy(found)
        inputs: Inputs = numeric
        if self.categorical:
            pairs = hash_pairs(table, self._hashes, self.buckets, place)
            inputs = {"numeric": numeric, "categorical": torch.from_numpy(pairs)}
        weights, task = self._weights(table, place, known, faults), self._tasks(table, place, faults)
        batch = Batch(self._told(inputs, task), torch.from_numpy(targets), weights, task, rows)
        if not faults:
            return Encoded(batch, [])
        bad = _bad_rows(faults, table, rows, place)
        good = np.ones(len(table), dtype=bool)
        for fault in faults:
            good[fault.index] = False
        return Encoded(batch.take(torch.from_numpy(np.flatnonzero(good))), bad, good)

    @property
    def _whole(self) -> bool:
        if self.objective in ("multiclass", "next_token"):
            return True
        return self.classes is not None and self.objective not in ("binary", "multilabel")

    @property
    def _target_type(self) -> type[np.generic]:
        """Regression's targets may lie far from 0, beside their spread: the objective takes their mean off."""
        return np.int64 if self._whole else np.float64 if self.objective == "regression" else np.float32

    def _label_index(self) -> dict[str | None, int] | None:
        """Class text -> index; None where labels are plain numbers."""
        if self.objective == "binary" and self.classes in (None, [0, 1]):
            return {**ZERO_ONE}
        if self.objective == "multilabel" and len(self.labels) > 1:
            return None
        if self.classes is not None and self.objective != "regression":
            return {text(value): index for index, value in enumerate(self.classes)}
        return None

    def _inputs_and_targets(
        self, table: pa.Table, place: str, known: np.ndarray[Any, np.dtype[np.bool_]], faults: list[Fault]
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        if self.of_tokens:
            assert self.vocabulary is not None
            name = self.labels[0]
            width = self.widths.get(name, 1)
            inputs, targets, found = tokens(table[name], width, self.vocabulary, name, place, known)
            faults += found
            return inputs, targets
        matrix, found = numeric_matrix(table, self.places, self.widths, place)
        faults += found
        return matrix, self._targets(table, place, known, faults)

    def _several(
        self, table: pa.Table, place: str, known: np.ndarray[Any, np.dtype[np.bool_]], faults: list[Fault]
    ) -> np.ndarray[Any, Any]:
        if not known.any():
            return np.zeros((len(table), len(self._index or self.labels)), dtype=np.float32)
        if self._index is None:
            targets, found = flags(table, self.labels, place)
        else:
            targets, found = sets(table[self.labels[0]], self._index, self.labels[0], place)
        faults += [_within(fault, known) for fault in found if known[fault.index].any()]
        return targets * known[:, None]

    def _targets(
        self, table: pa.Table, place: str, known: np.ndarray[Any, np.dtype[np.bool_]], faults: list[Fault]
    ) -> np.ndarray[Any, Any]:
        if self.objective == "multilabel":
            return self._several(table, place, known, faults)
        targets = np.zeros(len(table), dtype=self._target_type)
        if self.label is None or not known.any():
            return targets
        column = table[self.label]
        absent = _is_missing(column, blank=self._index is None or "" not in self._index)
        if (absent & known).any():
            faults.append(Fault(np.flatnonzero(absent & known), self.label, "a label", "missing"))
        if self._index is not None:
            values, codes = indexed(column, f"stream.features.{self.label} in {place}")
            indices = np.array([self._index.get(text(value), -1) for value in values], dtype=targets.dtype)
            found = indices.take(codes)
            wrong = found < 0
            if wrong.any():
                index = np.flatnonzero(wrong & known & ~absent)
                if len(index):
                    faults.append(Fault(index, self.label, self._expected_label(), "something else", self._room()))
                found[wrong] = 0
            return found if known.all() else np.where(known, found, targets)
        numeric, broken = numbers(column, self.label, place)
        faults += [_within(fault, known) for fault in broken if known[fault.index].any()]
        if self.objective == "multiclass":
            with np.errstate(invalid="ignore"):
                high = np.inf if self.capacity is None else self.capacity
                wrong = ((numeric < 0) | (numeric % 1 != 0) | (numeric >= high)) & np.isfinite(numeric) & known
            if wrong.any():
                expected = "a class number from 0" + ("" if self.capacity is None else f" to {self.capacity - 1}")
                faults.append(Fault(np.flatnonzero(wrong), self.label, expected, "something else"))
        with np.errstate(over="ignore"):
            targets[:] = np.where(known & np.isfinite(numeric), numeric, 0)
        return targets

    def _room(self) -> str:
        """What to do about labels that are no class of a run: its model has an output for each class, and no more."""
        if self.objective != "multiclass":
            return ""
        return "for classes yet to come, begin a run with features.capacity, or with features.classes that names all"

    def _expected_label(self) -> str:
        if self.classes is None:
            return "0 or 1"
        names = [str(value) for value in self.classes]
        return f"one of {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"

    def _weights(
        self, table: pa.Table, place: str, known: np.ndarray[Any, np.dtype[np.bool_]], faults: list[Fault]
    ) -> Tensor | None:
        if self.weight is None:
            return None
        if not known.any():
            return torch.ones(len(table))
        values, found = numbers(table[self.weight], self.weight, place)
        faults += found
        with np.errstate(invalid="ignore"):
            wrong = np.flatnonzero(~(values >= 0) & known)
        if len(wrong):
            faults.append(Fault(wrong, self.weight, "a weight of at least 0", "negative or missing"))
        with np.errstate(over="ignore"):
            return torch.from_numpy(values.astype(np.float32))

    def _tasks(self, table: pa.Table, place: str, faults: list[Fault]) -> Tensor | None:
        if self.task is None:
            return None
        column = table[self.task]
        if not pa.types.is_integer(column.type):
            raise StreamError(
                f"stream.features.{self.task}: expected integers for the task, got {column.type} in {place}; "
                "number the tasks from 0"
            )
        missing = np.flatnonzero(column.is_null().to_numpy())
        if len(missing):
            faults.append(Fault(missing, self.task, "a task number", "missing"))
        tasks = column.fill_null(0).to_numpy().astype(np.int64)
        most = np.iinfo(np.int64).max if self.tasks is None else self.tasks
        strange = np.flatnonzero((tasks < 0) | (tasks >= most))
        if len(strange):
            last = "on" if self.tasks is None else f"to {self.tasks - 1}"
            faults.append(Fault(strange, self.task, f"a task number from 0 {last}", "another"))
        return torch.from_numpy(tasks)


def _is_missing(column: pa.ChunkedArray, blank: bool) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows (B,) hold null or, where `blank` is no value, the text "": a CSV file has no other way to say it."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if blank and (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)):
        column = pc.equal(pc.cast(column, kind), pa.scalar("" if not pa.types.is_binary(kind) else b"", kind))
        return pc.fill_null(column, True).to_numpy()  # type: ignore[no-any-return]
    if not column.null_count:
        return np.zeros(len(column), dtype=bool)
    return column.is_null().to_numpy()  # type: ignore[no-any-return]


def _within(fault: Fault, known: np.ndarray[Any, np.dtype[np.bool_]]) -> Fault:
    return Fault(fault.index[known[fault.index]], fault.column, fault.expected, fault.got, fault.remedy)


def _bad_rows(faults: Sequence[Fault], table: pa.Table, rows: Tensor, place: str) -> list[BadRow]:
    """One entry a row, with its first fault, in row order."""
    bad: dict[int, BadRow] = {}
    for fault in faults:
        values = table[fault.column].take(pa.array(fault.index)).to_pylist()
        for index, value in zip(fault.index.tolist(), values, strict=True):
            row = int(rows[index])
            offset = row & ((1 << OFFSET_BITS) - 1)
            shown = text(value) if value is not None else "null"
            shown = str(shown) if len(str(shown)) <= 60 else f"{str(shown)[:57]}..."
            what = fault.column, fault.expected, fault.got, shown, fault.remedy
            bad.setdefault(index, BadRow(row, place, offset, *what))
    return [bad[index] for index in sorted(bad)]
