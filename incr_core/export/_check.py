"""Comparison of an exported model with its version: answers, codes, latency and metrics."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from incr_core.batch import Batch, Inputs
from incr_core.data.timeline import EncodedRows
from incr_core.data.times import readable
from incr_core.errors import ExportError
from incr_core.export._answering import named_inputs
from incr_core.export._formats import Ask
from incr_core.export.encoder import Encoder
from incr_core.learner import Learner

__all__ = ["TOLERANCE", "Difference", "check_codes", "difference", "latencies", "metrics_of"]

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}
"""Precision of a job's training -> tolerance of the answers of the exported model, which computes in float32.

It is relative to 1 for probabilities, and to the spread of values.
"""

CODED = 1000
"""Number of rows that are encoded by `encoder.py` for comparison."""

ROWS = (1, 1000)
"""Batch sizes for which the latency is measured."""

SECONDS, MOST = 0.5, 300
"""Duration of a latency measurement in seconds, and its maximum number of calls."""


class Difference(NamedTuple):
    """The largest difference of two answers, its share of their spread, and its row."""

    largest: float
    share: float
    row: int


def difference(version: Tensor, exported: Tensor, *, probabilities: bool) -> Difference:
    """Return the largest difference between the answers of an exported model (B, ...) and its version's.

    Example:
        >>> difference(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.5]), probabilities=False)
        Difference(largest=0.5, share=0.25, row=1)
    """
    if version.shape != exported.shape:
        raise ExportError(f"export: expected answers {tuple(version.shape)}, got {tuple(exported.shape)}")
    apart = (version.double() - exported.double()).abs().reshape(len(version), -1).amax(1)
    apart = torch.where(apart.isnan() & ~version.double().reshape(len(version), -1).isnan().any(1), torch.inf, apart)
    apart = apart.nan_to_num(0.0, posinf=float("inf"))  # both are NaN
    spread = 1.0 if probabilities else max(float(version.double().max() - version.double().min()), 1e-12)
    return Difference(float(apart.max()), float(apart.max()) / spread, int(apart.argmax()))


def check_codes(specification: Mapping[str, Any], table: pa.Table, encoded: EncodedRows) -> int:
    """Check that `encoder.py` encodes a table's rows as incr does.

    Rates, which a service computes, are taken from the encoded rows.

    Returns:
        The number of rows that were compared.

    Raises:
        ExportError: An input differs, or `encoder.py` refuses a row.
    """
    at = encoded.offsets[:CODED]
    inputs = {name: value[:CODED] for name, value in named_inputs(encoded.batch.inputs).items()}
    columns = specification["columns"]
    told = {
        name: _python(table[name].take(pa.array(at.numpy())))
        for name in dict.fromkeys(column["name"] for column in columns if column["kind"] not in ("rate", "count"))
    }
    for column in columns:
        if column["kind"] in ("rate", "count"):
            values = inputs["numeric"][:, column["places"][0]].double()
            told[column["name"]] = (values if column["kind"] == "rate" else values.expm1().round()).tolist()
    try:
        made = Encoder(specification).inputs(told)
    except ValueError as error:
        raise ExportError(
            f"export: expected rows that encoder.py can take, got one that it cannot, of those that incr can: {error}; "
            "let the stream have text or numbers there, or leave the column out"
        ) from error
    for name, value in inputs.items():
        wanted, found = value.numpy(), made[name]
        same = (wanted == found) | ((wanted != wanted) & (found != found))
        for column in columns if name == "numeric" else ():
            if column["kind"] == "count":  # the logarithm has been rounded
                places = slice(*column["places"])
                same[:, places] |= np.isclose(wanted[:, places], found[:, places], rtol=1e-6)
        if not same.all():
            row, place = (int(where) for where in np.argwhere(~same.reshape(len(same), -1))[0])
            wrong = _column_of(columns, name, place)
            raise ExportError(
                f"export: expected encoder.py to make of row {int(at[row])} what incr does, got other numbers of "
                f"{wrong} ({told[wrong][row]!r}); let the stream have text or numbers there, or leave the column out"
            )
    return len(at)


def _column_of(columns: Sequence[Mapping[str, Any]], name: str, place: int) -> str:
    """Return the column that fills a place of an input."""
    for column in columns:
        kind = column["kind"]
        if name == "task" and kind == "task":
            break
        if name == "categorical" and kind == "category" and column["place"] == place // 2:
            break
        if name == "numeric" and "places" in column and column["places"][0] <= place < column["places"][1]:
            break
    return str(column["name"])


def _python(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column as a service has them."""
    kind = column.type
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        number = kind.to_pandas_dtype()
        return [None if value is None else number(value) for value in column.to_pylist()]
    values: list[Any] = readable(pa.table({"value": column}))["value"].to_pylist()
    return values


def latencies(ask: Ask | None, learner: Learner, inputs: Inputs) -> dict[str, dict[str, float | None]]:
    """Return the median milliseconds of a forward for each batch size, of the version's model and of the exported one.

    Args:
        ask: The exported model; None if it cannot run.
        learner: The version's learner.
        inputs: At least one row.
    """
    found: dict[str, dict[str, float | None]] = {}
    for rows in ROWS:
        batch = Batch(inputs, torch.zeros(_count(inputs))).take(torch.arange(rows) % _count(inputs))
        named = named_inputs(batch.inputs)
        found[str(rows)] = {
            "incr": _median(lambda given=batch.inputs: learner.predict(given)),  # type: ignore[misc]
            "exported": None if ask is None else _median(lambda given=named: ask(given)),  # type: ignore[misc]
        }
    return found


def _median(call: Callable[[], Any]) -> float:
    """Return the median duration of a call in milliseconds."""
    call()
    taken: list[float] = []
    begun = time.perf_counter()
    while len(taken) < MOST and (len(taken) < 3 or time.perf_counter() - begun < SECONDS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return round(statistics.median(taken) * 1e3, 4)


def metrics_of(learner: Learner, labelled: Batch, ask: Ask) -> dict[str, dict[str, float]]:
    """Return the objective's metrics on labelled rows, before and after the export."""
    objective = learner.objective
    answers = {"before": learner.predict(labelled.inputs), "after": ask(named_inputs(labelled.inputs))}
    return {
        name: objective.metrics(objective.measure(found, labelled.targets, labelled.weights))
        for name, found in answers.items()
    }


def _count(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
