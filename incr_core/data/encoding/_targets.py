"""Targets of several values per row: sets of labels, and sequences of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from incr_core.data.encoding._columns import Fault, is_list, list_matrix, width_of
from incr_core.data.encoding._hashing import indexed, text
from incr_core.errors import ArgumentError, StreamError

__all__ = ["ZERO_ONE", "check_labels", "flags", "sets", "tokens"]

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

ZERO_ONE: dict[str | None, int] = {"0": 0, "1": 1, "false": 0, "true": 1}
"""Notations of 0 and 1."""


def flags(table: pa.Table, labels: Sequence[str], place: str) -> tuple[Floats, list[Fault]]:
    """Return label columns of 0 and 1, or false and true, as (B, L), and the rows with other values.

    Example:
        >>> flags(pa.table({"a": [1, 0], "b": [True, None]}), ["a", "b"], "day.csv")[1][0].got
        'missing'
    """
    found = np.zeros((len(table), len(labels)), dtype=np.float32)
    faults: list[Fault] = []
    for index, name in enumerate(labels):
        values, codes = indexed(table[name], f"stream.features.{name} in {place}")
        numbers = np.array([ZERO_ONE.get(text(value), -1 if value not in (None, "") else -2) for value in values])
        column = numbers.take(codes) if len(codes) else np.zeros(0)
        for code, got in ((-1, "something else"), (-2, "missing")):
            if (column == code).any():
                faults.append(Fault(np.flatnonzero(column == code), name, "0 or 1", got))
        found[:, index] = column.clip(0)
    return found, faults


def sets(column: pa.ChunkedArray, index: Mapping[str | None, int], name: str, place: str) -> tuple[Floats, list[Fault]]:
    """Return a column of lists of labels as (B, L) of 0 and 1, and the rows without a list or with an unknown label.

    Example:
        >>> sets(pa.chunked_array([[["a"], [], ["b", "a"]]]), {"a": 0, "b": 1}, "tags", "day.parquet")[0].tolist()
        [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
    """
    if not is_list(column.type):
        raise StreamError(
            f"stream.features.{name}: expected lists of labels, got {column.type} in {place}; "
            "name several label columns of 0 and 1, or convert it"
        )
    found = np.zeros((len(column), len(index)), dtype=np.float32)
    flat = pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
    rows = np.repeat(np.arange(len(column)), pc.list_value_length(column).fill_null(0).to_numpy())
    values, codes = indexed(flat, f"stream.features.{name} in {place}")
    places = np.array([index.get(text(value), -1) for value in values], dtype=np.int64).take(codes)
    found[rows[places >= 0], places[places >= 0]] = 1.0
    faults = []
    missing = np.flatnonzero(pc.is_null(column).to_numpy())
    if len(missing):
        faults.append(Fault(missing, name, "a list of labels", "missing"))
    wrong = np.unique(rows[places < 0])
    if len(wrong):
        shown = [str(label) for label in list(index)[:10]]
        expected = f"labels out of {', '.join(shown)}{', ...' * (len(index) > 10)}"
        remedy = "for labels yet to come, begin a run with features.classes that names them all"
        faults.append(Fault(wrong, name, expected, "others", remedy))
    return found, faults


def tokens(
    column: pa.ChunkedArray, width: int, vocabulary: int, name: str, place: str, known: Mask
) -> tuple[Ints, Ints, list[Fault]]:
    """Return lists of `width` tokens as inputs (B, width - 1), targets (B, width - 1) shifted by one, and the bad rows.

    If no row is known, lists may be one shorter: they then hold the inputs only.

    Example:
        >>> tokens(pa.chunked_array([[[1, 2, 3]]]), 3, 4, "words", "day.parquet", np.array([True]))[:2]
        (array([[1, 2]]), array([[2, 3]]))
    """
    shorter = not known.any() and width_of(column) == width - 1
    matrix, faults = list_matrix(column, width - shorter, name, place)
    missing = np.flatnonzero(pc.is_null(column).to_numpy())
    if len(missing):
        faults.append(Fault(missing, name, f"{width} tokens", "missing"))
    whole = np.nan_to_num(matrix, nan=0.0, posinf=0.0, neginf=0.0)
    wrong = np.flatnonzero(((whole < 0) | (whole >= vocabulary) | (whole % 1 != 0)).any(axis=1))
    if len(wrong):
        faults.append(Fault(wrong, name, f"token numbers from 0 to {vocabulary - 1}", "something else"))
        whole[wrong] = 0
    found = whole.astype(np.int64)
    inputs = found if shorter else found[:, :-1]
    targets = found[:, 1:] if not shorter else np.zeros_like(found)
    return np.ascontiguousarray(inputs), np.where(known[:, None], targets, 0), faults


def check_labels(objective: str, labels: Sequence[str], vocabulary: int | None, features: int) -> None:
    """Raise an ArgumentError if labels, objective and number of feature columns are inconsistent.

    Example:
        >>> check_labels("multilabel", ["a", "b"], None, features=3)
    """
    if len(labels) > 1 and objective != "multilabel":
        raise ArgumentError(
            f"features.label: expected one column for the objective {objective}, got {len(labels)}; name one, or set "
            'objective = "multilabel"'
        )
    if objective != "next_token":
        if not features:
            raise ArgumentError(
                "features: expected at least one numeric, categorical, text or date column, got none; name some"
            )
        return
    if features:
        raise ArgumentError(
            "features: expected none besides the label, whose tokens are read; leave numeric and categorical out"
        )
    if vocabulary is None:
        raise ArgumentError("features.vocabulary: missing; say how many tokens there are")
