"""New rows to predict or to evaluate: a file or a table, encoded as the stream encodes its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.data._local_time import LocalTime, in_zone
from incr_core.data._prepare import Prepare
from incr_core.data._row_ids import row_ids
from incr_core.data.encoding import BadRow, Encoder
from incr_core.data.rates import History, Questions, Rate, with_features
from incr_core.data.sources import read_rows_file
from incr_core.data.times import NEVER, Instants, instants, readable
from incr_core.errors import StreamError

__all__ = ["EncodedRows", "columns_asked", "encode_file", "encode_table", "moments", "outcomes_of"]


@dataclass(slots=True)
class EncodedRows:
    """The usable rows of a file or table in order, their offsets (B,), the bad rows, and the total number of rows."""

    batch: Batch
    offsets: Tensor
    bad: list[BadRow]
    total: int


def columns_asked(encoder: Encoder, rates: Sequence[Rate], predict_at: str | None, labelled: bool) -> list[str]:
    """Return the columns required in a table to predict or to evaluate.

    Example:
        >>> columns_asked(Encoder("y", ["x"], [], objective="regression", classes=None), [], None, labelled=False)
        ['x']
    """
    asked = [
        *(name for name in (encoder.columns if labelled else encoder.asked) if name != encoder.task),
        *([encoder.task] if encoder.task and encoder.asks_task else []),
        *(column for rate in rates for column in rate.by),
        *([predict_at] if rates and predict_at else []),
    ]
    return list(dict.fromkeys(asked))


def encode_file(
    path: str | Path,
    encoder: Encoder,
    rates: Sequence[Rate] = (),
    history: pa.Table | None = None,
    *,
    predict_at: str | None = None,
    time_zone: str | None = None,
    format: str | None = None,
    labelled: bool = False,
    prepare: Prepare | None = None,
) -> EncodedRows:
    """Encode a file of new rows as the stream does, with the outcomes of `history` (from `Stream.history`).

    Outcomes in the file itself are not used in rates. Rows that cannot be used are returned and do not raise an
    exception.

    Args:
        path: The file, or its address.
        encoder: The encoder of the rows.
        rates: The rate features.
        history: The outcomes from which rates are computed.
        predict_at: As in the stream.
        time_zone: As in the stream.
        format: As in the stream, for files without a known suffix.
        labelled: Whether the rows have labels.
        prepare: As in the stream.

    Raises:
        StreamError: The file cannot be read, or lacks a column.
    """
    # Tasks are read where the file has them, whether they are needed or not.
    optional = encoder.task is not None and not encoder.asks_task
    asked = None if optional or prepare else columns_asked(encoder, rates, predict_at, labelled)
    table, name = read_rows_file(path, asked, format)
    if prepare is not None:
        table = prepare(table, name)
    return encode_table(
        table, name, encoder, rates, history, predict_at=predict_at, time_zone=time_zone, labelled=labelled
    )


def encode_table(
    table: pa.Table,
    name: str,
    encoder: Encoder,
    rates: Sequence[Rate] = (),
    history: pa.Table | None = None,
    *,
    predict_at: str | None = None,
    time_zone: str | None = None,
    labelled: bool = False,
) -> EncodedRows:
    """Encode a table of new rows as `encode_file` does; `name` is the name of the table in errors.

    Example:
        >>> encoder = Encoder("y", ["x"], [], objective="regression", classes=None)
        >>> encode_table(pa.table({"x": [1.0, None]}), "here", encoder).batch.inputs.flatten()
        tensor([1., nan])
    """
    asked = columns_asked(encoder, rates, predict_at, labelled)
    if absent := [column for column in asked if column not in table.column_names]:
        raise StreamError(
            f"{name}: expected the columns {', '.join(asked)}, got none named {', '.join(absent)}; "
            "add the missing columns, with null for unknown values"
        )
    if encoder.task is not None and encoder.task not in table.column_names:
        encoder = encoder.without_task()
    encoder.check(table, name, labelled)
    total = len(table)
    rows = row_ids(0, 0, total)
    bad: list[BadRow] = []
    times = np.zeros(total, dtype=np.int64)
    if rates and predict_at:
        if time_zone is not None:
            table = LocalTime(time_zone, frozenset({predict_at}), frozenset()).in_zone(table)
        read = instants(table[predict_at], f"stream.predict_at.{predict_at} in {name}")
        told = table if read.known.all() else readable(table.select([predict_at]))
        for offset in np.flatnonzero(~read.known).tolist():
            value = told[predict_at][offset].as_py()
            got = read.got if read.wrong[offset] else "null"
            bad.append(BadRow(offset, name, offset, predict_at, "a time", got, str(value)))
        kept = np.flatnonzero(read.known)
        table, rows, times = table.take(pa.array(kept)), rows[torch.from_numpy(kept)], read.values[kept]
    encoded = encoder.encode(table, rows, name, labelled)
    batch = encoded.batch
    if rates:
        if encoded.good is not None:
            table, times = table.filter(pa.array(encoded.good)), times[encoded.good]
        past = History(rates) if history is None else History.from_table(rates, history)
        batch = with_features(batch, past.features(Questions.of(rates, table), times))
    assert batch.row_ids is not None
    return EncodedRows(batch, batch.row_ids, sorted([*bad, *encoded.bad], key=lambda row: row.row), total)


def outcomes_of(
    table: pa.Table,
    name: str,
    encoder: Encoder,
    rates: Sequence[Rate],
    *,
    predict_at: str,
    label_at: str,
) -> Questions:
    """Return the outcomes of labelled rows for rates, as the stream does; rows that cannot be used have none.

    Args:
        table: The rows, with the times of prediction and label in columns with a zone, or in UTC.
        name: The name of the table in errors.
        encoder: The encoder of the labels.
        rates: The rates, which define the keys.
        predict_at: The column of times of prediction.
        label_at: The column of label times.

    Example:
        >>> table = pa.table({"x": [1.0, 2.0], "y": [0.0, 1.0], "at": [5, 6], "known": [7, 8]})
        >>> encoder = Encoder("y", ["x"], [], objective="regression", classes=None)
        >>> found = outcomes_of(table, "here", encoder, [Rate([], "1h")], predict_at="at", label_at="known")
        >>> found.outcomes, found.known // 1_000_000
        (array([[0., 1.]]), array([[7, 8]]))
    """
    arrives, known = instants(table[predict_at], predict_at), instants(table[label_at], label_at)
    times = np.where(arrives.known, arrives.values, 0)
    at = np.where(arrives.known & known.known, np.maximum(known.values, times), NEVER)
    encoded = encoder.encode(table, row_ids(0, 0, len(table)), name, labelled=True)
    good = np.ones(len(table), dtype=bool) if encoded.good is None else np.asarray(encoded.good)
    labels, targets = np.full(len(table), np.nan), encoded.batch.targets.numpy()
    if targets.ndim == 1:
        labels[good] = targets
    found = Questions.answered(rates, table, labels, at, times)
    found.known[:, ~good | ~arrives.known] = NEVER
    return found


def moments(column: pa.ChunkedArray, place: str, time_zone: str | None = None, *, late: bool = False) -> Instants:
    """Read a column of times as a stream does.

    Args:
        column: The column.
        place: The name of the column in errors.
        time_zone: The meaning of times without a zone.
        late: Whether such a time in an hour that occurs twice is in the second (`LocalTime`).

    Example:
        >>> moments(pa.chunked_array([["1970-01-01 01:00"]]), "at", "Europe/Berlin").values
        array([0])
    """
    return instants(column if time_zone is None else in_zone(column, time_zone, late=late), place)
