"""Encoder of an exported model: from rows to inputs, and from outputs to answers. It needs numpy, not torch or incr.

`incr export` writes this file beside the model, with `encoder.json`, which specifies how each column becomes numbers:

    import onnxruntime
    from encoder import Encoder

    encoder = Encoder.read()
    session = onnxruntime.InferenceSession("model.onnx")
    inputs = encoder.inputs([{"distance": 170, "carrier": "AA"}])
    print(encoder.answers(session.run(None, inputs)[0]))
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Encoder", "UnusableValue"]

Array = np.ndarray[Any, np.dtype[Any]]
Rows = Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]]

_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
_LARGEST = float(np.finfo(np.float32).max)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MOST_REMEMBERED = 200_000
"""Maximum number of distinct categories whose codes a column caches."""


class UnusableValue(ValueError):
    """A value of a row that cannot be used. The message names row and column."""


class Encoder:
    """Encodes rows as inputs of a model and decodes its output, with the results of the run that trained the model.

    Args:
        specification: The content of `encoder.json`.

    Example:
        >>> far = {"name": "far", "kind": "number", "places": [0, 1]}
        >>> by = {"name": "by", "kind": "category", "place": 0}
        >>> inputs = [{"name": "numeric", "shape": ["rows", 1]}, {"name": "categorical", "shape": ["rows", 1, 2]}]
        >>> answers = {"of": "binary", "classes": [0, 1], "named": False, "columns": ["probability"]}
        >>> encoder = Encoder({"columns": [far, by], "inputs": inputs, "buckets": 100, "answers": answers})
        >>> encoder.inputs([{"far": 170, "by": "AA"}, {"far": None, "by": None}])["numeric"]
        array([[170.],
               [ nan]], dtype=float32)
        >>> encoder.answers(np.array([0.25], dtype=np.float32))
        {'probability': [0.25]}
    """

    def __init__(self, specification: Mapping[str, Any]) -> None:
        self.specification = specification
        self._widths = {one["name"]: one["shape"][1] for one in specification["inputs"] if len(one["shape"]) > 1}
        self._taken = [one["name"] for one in specification["inputs"]]
        self._columns: list[dict[str, Any]] = list(specification["columns"])
        self._codes = {
            one["name"]: _Codes(one["name"], specification["buckets"])
            for one in self._columns
            if one["kind"] == "category"
        }

    @classmethod
    def read(cls, path: str | Path | None = None) -> Encoder:
        """Return the encoder that a file specifies. None: `encoder.json` beside this module."""
        path = Path(__file__).with_name("encoder.json") if path is None else Path(path)
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def inputs(self, rows: Rows) -> dict[str, Array]:
        """Return the model's inputs by name.

        Args:
            rows: A list of dicts, or a dict of columns. None is a missing value.

        Raises:
            UnusableValue: A value cannot be used; the first such value is named.
        """
        values, count = self._by_column(rows)
        found: dict[str, Array] = {}
        if "numeric" in self._taken:
            found["numeric"] = np.empty((count, self._widths["numeric"]), dtype=np.float32)
        if "categorical" in self._taken:
            found["categorical"] = np.empty((count, self._widths["categorical"], 2), dtype=np.int64)
        for column in self._columns:
            kind, told = column["kind"], values[column["name"]]
            if kind == "category":
                codes = self._codes[column["name"]]
                found["categorical"][:, column["place"]] = [codes.of(value, row) for row, value in enumerate(told)]
            elif kind == "task":
                found["task"] = np.array([_task(value, column, row) for row, value in enumerate(told)], dtype=np.int64)
            else:
                start, stop = column["places"]
                read = _READ[kind]
                lists = [read(value, column, row) for row, value in enumerate(told)]
                found["numeric"][:, start:stop] = np.array(lists, dtype=np.float64).reshape(count, stop - start)
        return {name: found[name] for name in self._taken}

    def answers(self, output: Array) -> dict[str, list[Any]]:
        """Return the answers for each row, in the columns of `incr predict`."""
        told = self.specification["answers"]
        names: list[str] = [str(name) for name in told["classes"] or ()]
        if told["of"] == "binary":
            answers = {"probability": output.tolist()}
            if not told["named"]:
                return answers
            return {"class": [names[int(share >= 0.5)] for share in output.tolist()], **answers}
        if told["of"] in ("multiclass", "multilabel"):
            shares = {name: output[:, at].tolist() for at, name in enumerate(told["columns"][-output.shape[1] :])}
            if told["of"] == "multilabel":
                return shares
            return {"class": [names[at] for at in output.argmax(1).tolist()], **shares}
        return {"value": output.tolist()}

    def _by_column(self, rows: Rows) -> tuple[dict[str, list[Any]], int]:
        """Return the values of each required column, and the number of rows."""
        wanted = [column["name"] for column in self._columns]
        if isinstance(rows, Mapping):
            if absent := [name for name in wanted if name not in rows]:
                raise UnusableValue(f"{absent[0]}: expected this column, got {', '.join(rows)}; {_ABSENT}")
            found = {name: list(rows[name]) for name in wanted}
            counts = {name: len(values) for name, values in found.items()}
            if len(set(counts.values())) > 1:
                raise UnusableValue(f"expected columns of one length, got {counts}")
            return found, next(iter(counts.values()))
        found = {name: [] for name in wanted}
        for at, row in enumerate(rows):
            for name, values in found.items():
                if name not in row:
                    raise UnusableValue(f"row {at}: {name}: expected a value, got none; {_ABSENT}")
                values.append(row[name])
        return found, len(rows)


_ABSENT = "give None where it is unknown"


class _Codes:
    """Codes of a column's categories: two hashes into [0, buckets)."""

    def __init__(self, column: str, buckets: int) -> None:
        self._column, self._buckets = column, buckets
        self._salt = blake2b(column.encode(), digest_size=16).digest()
        self._known: dict[str | None, tuple[int, int]] = {}

    def of(self, value: object, row: int) -> tuple[int, int]:
        told = _category(value, self._column, row)
        codes = self._known.get(told)
        if codes is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            # The prefixes distinguish a missing value from every text.
            data = b"0" if told is None else b"1" + told.encode("utf-8", "surrogatepass")
            both = int.from_bytes(blake2b(data, digest_size=8, key=self._salt).digest(), "little")
            codes = self._known[told] = (both & 0xFFFFFFFF) % self._buckets, (both >> 32) % self._buckets
        return codes


def _category(value: object, column: str, row: int) -> str | None:
    """Return the text of a value that is hashed. 1, 1.0 and "1" are equal, and a day equals its midnight."""
    if isinstance(value, np.float32 | np.float16):
        value = float(str(value))  # 0.1 in 32 bits is 0.1, not the nearest double
    value = _plain(value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, Decimal):
        same = int(value) if value == value.to_integral_value() else float(value)
        return str(same) if Decimal(repr(same)) == value else format(value.normalize(), "f")
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            return str(value.astimezone(UTC))
        return str(value.date()) if value.time() == time.min else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, int | date | time | timedelta):
        return str(value)
    raise UnusableValue(f"row {row}: {column}: expected text, a number, true or false, got {_shown(value)}")


def _number(value: object, column: Mapping[str, Any], row: int) -> float:
    """Return a value as a float: NaN if it is missing, days since 1970 for a date, seconds for a duration."""
    place = f"row {row}: {column['name']}"
    read = _plain(value)
    if isinstance(read, str) and read:
        read = float(read) if _NUMBER.fullmatch(read) else read
    if read is None or read == "":
        found = math.nan
    elif isinstance(read, int | float | Decimal):
        try:
            found = float(read)
        except OverflowError:
            found = math.inf
        if not abs(found) <= _LARGEST:
            raise UnusableValue(
                f"{place}: expected a finite float32, got {_shown(value)}; give None where it is missing"
            )
    elif isinstance(read, datetime):
        moment = read if read.tzinfo is not None else read.replace(tzinfo=UTC)
        found = (moment - _EPOCH) // _MICROSECOND / 86400e6
    elif isinstance(read, date):
        found = float((read - _EPOCH.date()).days)
    elif isinstance(read, timedelta):
        found = read // _MICROSECOND / 1e6
    elif isinstance(read, time):
        found = (((read.hour * 60 + read.minute) * 60 + read.second) * 1_000_000 + read.microsecond) / 1e6
    else:
        raise UnusableValue(f"{place}: expected a number, got {_shown(value)}")
    if "ids" in column and not (math.isnan(found) or (found.is_integer() and _within(found, column["ids"]))):
        first, last = column["ids"]
        raise UnusableValue(f"{place}: expected a whole number from {first} to {last}, got {_shown(value)}")
    return found


def _within(number: float, ids: Sequence[int]) -> bool:
    return ids[0] <= number <= ids[1]


def _numbers(value: Any, column: Mapping[str, Any], row: int) -> list[float]:
    """Return a list of numbers of the column's length. None: all are missing."""
    width = column["places"][1] - column["places"][0]
    if value is None:
        return [math.nan] * width
    place = f"row {row}: {column['name']}"
    if isinstance(value, str | bytes) or not hasattr(value, "__len__") or len(value) != width:
        raise UnusableValue(f"{place}: expected a list of {width} numbers, got {_shown(value)}")
    found = [_number(one, column, row) for one in value]
    if any(map(math.isnan, found)):
        raise UnusableValue(f"{place}: expected {width} numbers, got a list in which one is missing")
    return found


def _rate(value: object, column: Mapping[str, Any], row: int) -> float:
    """Return a rate of labels already known, which the service computes."""
    found = _number(value, column, row)
    if math.isnan(found):
        raise UnusableValue(f"row {row}: {column['name']}: expected a number, got none; {column['means']}")
    return found


def _count(value: object, column: Mapping[str, Any], row: int) -> float:
    """Return log(1 + count) of the rows of a rate."""
    found = _rate(value, column, row)
    if found < 0:
        raise UnusableValue(f"row {row}: {column['name']}: expected a count of rows, got {_shown(value)}")
    return math.log1p(found)


def _task(value: object, column: Mapping[str, Any], row: int) -> int:
    read = _plain(value)
    if isinstance(read, int) and not isinstance(read, bool) and 0 <= read < column["below"]:
        return read
    raise UnusableValue(
        f"row {row}: {column['name']}: expected a task from 0 to {column['below'] - 1}, got {_shown(value)}"
    )


_READ: dict[str, Callable[[Any, Mapping[str, Any], int], Any]] = {
    "number": _number,
    "numbers": _numbers,
    "rate": _rate,
    "count": _count,
}


def _plain(value: Any) -> Any:
    """Return a numpy value as a Python value; times are rounded to microseconds."""
    if isinstance(value, np.datetime64):
        return value.astype("datetime64[us]").item()
    if isinstance(value, np.timedelta64):
        return value.astype("timedelta64[us]").item()
    return value.item() if isinstance(value, np.generic) else value


def _shown(value: object) -> str:
    told = repr(value)
    return told if len(told) <= 60 else f"{told[:57]}..."
