"""Conversion of label columns to targets: numbers, class indices or flags, by the objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from incr_core.data.encoding._columns import Fault, numbers
from incr_core.data.encoding._hashing import indexed, text
from incr_core.data.encoding._targets import ZERO_ONE, flags, sets
from incr_core.errors import ArgumentError

__all__ = ["Labels"]

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Targets = np.ndarray[Any, Any]


class Labels:
    """The label columns of a job, and their conversion to targets.

    Args:
        columns: Their names; empty if there never are labels.
        objective: The objective.
        classes: As for `Encoder`.
        capacity: As for `Encoder`.

    Example:
        >>> labels = Labels(["late"], "binary", classes=["no", "yes"], capacity=None)
        >>> labels.targets(pa.table({"late": ["yes", "no"]}), "day.csv", np.array([True, True]))
        (array([1., 0.], dtype=float32), [])
    """

    def __init__(
        self, columns: Sequence[str], objective: str, classes: Sequence[Any] | None, capacity: int | None
    ) -> None:
        self.columns, self.objective, self.capacity = list(columns), objective, capacity
        self.classes = None if classes is None else list(classes)
        if objective == "binary" and self.classes is not None and len(self.classes) != 2:
            raise ArgumentError(
                f"features.classes: expected two for a binary objective, got {len(self.classes)}; "
                'name two, or set objective = "multiclass"'
            )
        self._index = self._class_index()

    def _class_index(self) -> dict[str | None, int] | None:
        """Return the index of each class by its text; None if labels are numbers, or several columns of 0 and 1."""
        if self.objective == "binary" and self.classes in (None, [0, 1]):
            return {**ZERO_ONE}
        if self.objective == "multilabel" and len(self.columns) > 1:
            return None
        if self.classes is not None and self.objective != "regression":
            return {text(value): index for index, value in enumerate(self.classes)}
        return None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of targets.

        Those of a regression are float64, because they may have a large offset relative to their deviation; the
        objective subtracts their mean.
        """
        if self.objective == "regression":
            return np.dtype(np.float64)
        if self.objective in ("multiclass", "next_token"):
            return np.dtype(np.int64)
        whole = self.classes is not None and self.objective not in ("binary", "multilabel")
        return np.dtype(np.int64 if whole else np.float32)

    @property
    def width(self) -> tuple[int, ...]:
        """Shape of one row's target: (L,) for L labels, otherwise ()."""
        return (len(self._index or self.columns),) if self.objective == "multilabel" else ()

    def targets(self, table: pa.Table, place: str, known: Mask) -> tuple[Targets, list[Fault]]:
        """Return the targets (B, ...) of a table, and the rows with bad labels.

        Args:
            table: The table.
            place: Names the table in errors.
            known: Whether each row's label is present, (B,) bool; others have target 0.
        """
        if self.objective == "multilabel":
            return self._flags(table, place, known)
        targets = np.zeros(len(table), dtype=self.dtype)
        if not self.columns or not known.any():
            return targets, []
        name = self.columns[0]
        column = table[name]
        absent = _is_missing(column, blank=self._index is None or "" not in self._index)
        faults = []
        if (absent & known).any():
            faults.append(Fault(np.flatnonzero(absent & known), name, "a label", "missing"))
        if self._index is not None:
            found, more = self._class_places(column, name, place, known & ~absent)
            return found if known.all() else np.where(known, found, targets), faults + more
        values, more = numbers(column, name, place)
        faults += _where(more, known)
        if self.objective == "multiclass":
            faults += self._class_numbers(values, name, known)
        with np.errstate(over="ignore"):
            targets[:] = np.where(known & np.isfinite(values), values, 0)
        return targets, faults

    def _flags(self, table: pa.Table, place: str, known: Mask) -> tuple[Targets, list[Fault]]:
        if not known.any():
            return np.zeros((len(table), *self.width), dtype=np.float32), []
        if self._index is None:
            targets, faults = flags(table, self.columns, place)
        else:
            targets, faults = sets(table[self.columns[0]], self._index, self.columns[0], place)
        return targets * known[:, None], _where(faults, known)

    def _class_places(self, column: pa.ChunkedArray, name: str, place: str, there: Mask) -> tuple[Targets, list[Fault]]:
        """Return the index of each row's class (B,), 0 for others, and the rows `there` whose label is not a class."""
        assert self._index is not None
        values, codes = indexed(column, f"stream.features.{name} in {place}")
        found = np.array([self._index.get(text(value), -1) for value in values], dtype=self.dtype).take(codes)
        wrong = found < 0
        faults = []
        if wrong.any():
            index = np.flatnonzero(wrong & there)
            if len(index):
                faults.append(Fault(index, name, self._expected(), "something else", self._remedy()))
            found[wrong] = 0
        return found, faults

    def _class_numbers(self, values: Targets, name: str, known: Mask) -> list[Fault]:
        """Return the rows whose numbers are not class numbers."""
        high = np.inf if self.capacity is None else self.capacity
        with np.errstate(invalid="ignore"):
            wrong = ((values < 0) | (values % 1 != 0) | (values >= high)) & np.isfinite(values) & known
        if not wrong.any():
            return []
        expected = "a class number from 0" + ("" if self.capacity is None else f" to {self.capacity - 1}")
        return [Fault(np.flatnonzero(wrong), name, expected, "something else")]

    def _expected(self) -> str:
        if self.classes is None:
            return "0 or 1"
        names = [str(value) for value in self.classes]
        return f"one of {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"

    def _remedy(self) -> str:
        """Return the remedy for a label that is not a class of the run, whose model has one output per class."""
        if self.objective != "multiclass":
            return ""
        return "for classes yet to come, begin a run with features.capacity, or with features.classes that names all"


def _is_missing(column: pa.ChunkedArray, blank: bool) -> Mask:
    """Whether each row (B,) is null or, with `blank`, the text "", which represents null in a CSV file."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if blank and (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)):
        column = pc.equal(pc.cast(column, kind), pa.scalar("" if not pa.types.is_binary(kind) else b"", kind))
        return pc.fill_null(column, True).to_numpy()  # type: ignore[no-any-return]
    if not column.null_count:
        return np.zeros(len(column), dtype=bool)
    return column.is_null().to_numpy()  # type: ignore[no-any-return]


def _where(faults: Sequence[Fault], known: Mask) -> list[Fault]:
    """Return the faults of known rows only."""
    return [
        Fault(fault.index[known[fault.index]], fault.column, fault.expected, fault.got, fault.remedy)
        for fault in faults
        if known[fault.index].any()
    ]
