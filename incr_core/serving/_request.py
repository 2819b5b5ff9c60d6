"""A request to predict: the schema of its body, the checks of its values, and its rows as a table.

A value of a type that its column never has (a list for a number) refuses the whole request. A value of the right type
that cannot be used (text that is not a number) refuses only its row, when the table is encoded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from incr_core.data.encoding import text
from incr_core.data.timeline import columns_asked
from incr_core.errors import StreamError
from incr_core.job import Job
from incr_core.shown import shown

__all__ = [
    "Column",
    "RequestError",
    "body_schema",
    "columns_of",
    "document_in",
    "expect_columns",
    "rows_in",
    "table_of",
]

INT64 = np.iinfo(np.int64)


class RequestError(StreamError):
    """A request that cannot be answered, with its HTTP status.

    Example:
        >>> RequestError(413, "body: expected at most 8,000,000 bytes, got more").status
        413
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Column:
    """Type of a column of a request.

    Attributes:
        kind: "number", "list", "category", "time", "task", or "raw" (any value).
        width: Maximum number of numbers in a list.
        spare: The number by which a list may be shorter.
        ids: The integers that the column may contain, if the model looks up entries by them.
    """

    kind: str
    width: int = 1
    spare: int = 0
    ids: range | None = None

    @property
    def schema(self) -> dict[str, Any]:
        """Its values, as a JSON schema.

        Example:
            >>> Column("list", 3).schema["minItems"]
            3
        """
        if self.kind == "list":
            sizes = {"minItems": self.width - self.spare, "maxItems": self.width}
            return {"type": ["array", "null"], "items": {"type": "number"} | self._ids, **sizes}
        found: dict[str, dict[str, Any]] = {
            "number": {"type": ["number", "boolean", "null"]} | self._ids,
            "category": {"type": ["string", "number", "boolean", "null"]},
            "time": {"type": ["string", "null"], "format": "date-time"},  # or epoch seconds, all of them
            "task": {"type": ["integer", "null"], "minimum": int(INT64.min), "maximum": int(INT64.max)},
            "raw": {},
        }
        return found[self.kind]

    @property
    def _ids(self) -> dict[str, Any]:
        if self.ids is None:
            return {}
        limits = {"minimum": self.ids.start, "maximum": self.ids.stop - 1}
        return {"type": "integer" if self.kind == "list" else ["integer", "null"], **limits}


def columns_of(job: Job) -> dict[str, Column]:
    """Return the columns of rows to predict; with `features.prepare`, all columns that its tables may have."""
    if job.features.prepare is not None:
        return dict.fromkeys(job.features.prepare_types or {}, Column("raw"))
    encoder, time = job.encoder, job.stream.predict_at
    listed = encoder.widths

    def column(name: str) -> Column:
        if name in listed:
            return Column("list", listed[name], spare=int(encoder.of_tokens), ids=encoder.ids.get(name))
        if name in encoder.numeric:
            return Column("number", ids=encoder.ids.get(name))
        if name == encoder.task:
            return Column("task")
        timed = name in encoder.date or (
            name == time and name not in (*encoder.categorical, *encoder.text, *encoder.id_columns)
        )
        return Column("time" if timed else "category")

    asked = columns_asked(encoder, job.rates(), time, labelled=False)
    told = [encoder.task] if encoder.task and encoder.task not in asked else []  # read if a row has it
    return {name: column(name) for name in [*asked, *told]}


def body_schema(columns: Mapping[str, Column], required: Sequence[str], most: int) -> dict[str, Any]:
    """Return the JSON schema of a request's body: {"rows": [{...}, ...]} with at most `most` rows.

    Example:
        >>> body_schema({"height": Column("number")}, ["height"], 10)["properties"]["rows"]["maxItems"]
        10
    """
    row = {
        "type": "object",
        "properties": {name: column.schema for name, column in columns.items()},
        "required": list(required),
    }
    rows = {"type": "array", "items": row, "minItems": 1, "maxItems": most}
    return {"type": "object", "properties": {"rows": rows}, "required": ["rows"]}


def rows_in(body: bytes, most: int) -> list[dict[str, Any]]:
    """Return the rows in the body of a request.

    Raises:
        RequestError: The body has no rows, or more than `most`.

    Example:
        >>> rows_in(b'{"rows": [{"height": 170}]}', most=10)
        [{'height': 170}]
        >>> rows_in(b'{"rows": [{"height": NaN}]}', most=10)
        Traceback (most recent call last):
        ...
        incr_core.serving._request.RequestError: body: expected JSON, got NaN, which is no number there; write null
    """
    document = document_in(body)
    rows = document.get("rows") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise RequestError(422, 'body: expected {"rows": [{...}, ...]} with one row at least, got something else')
    if len(rows) > most:
        raise RequestError(413, f"rows: expected at most {most:,}, got {len(rows):,}; ask in several requests")
    return rows


def expect_columns(rows: Sequence[Mapping[str, Any]], required: Sequence[str]) -> None:
    """Check that no row lacks the key of a column.

    Raises:
        RequestError: A row lacks one.

    Example:
        >>> expect_columns([{"height": None}, {}], ["height"])
        Traceback (most recent call last):
        ...
        incr_core.serving._request.RequestError: rows[1]: expected the columns height, got none named height; ...
    """
    for place, row in enumerate(rows):
        if absent := [name for name in required if name not in row]:
            raise RequestError(
                422,
                f"rows[{place}]: expected the columns {shown(', '.join(required))}, got none named "
                f"{shown(', '.join(absent))}; add the missing columns, with null for unknown values",
            )


def document_in(body: bytes) -> Any:
    """Return the JSON document in a body.

    Raises:
        RequestError: The body is not JSON.

    Example:
        >>> document_in(b'{"id": 7}')
        {'id': 7}
    """
    if not body.strip():
        raise RequestError(400, 'body: expected {"rows": [{...}, ...]} as JSON, got nothing')
    try:
        return json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise RequestError(400, f"body: expected JSON in UTF-8, got another byte at {error.start}") from None
    except json.JSONDecodeError as error:
        raise RequestError(400, f"body: expected JSON, got another at character {error.pos}: {error.msg}") from None
    except RecursionError:
        raise RequestError(400, "body: expected rows of plain values, got them nested too deep") from None
    except ValueError:  # Python refuses integers of more than 4,300 digits
        raise RequestError(400, "body: expected numbers of at most 4,300 digits, got a longer one") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise RequestError(400, f'body: expected each name once in an object, got "{shown(twice, 60)}" twice')
    return found


def _constant(name: str) -> NoReturn:
    raise RequestError(400, f"body: expected JSON, got {name}, which is no number there; write null")


def table_of(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Column]) -> pa.Table:
    """Return rows as a table of those `columns` that any row has. A value that a row lacks is null.

    Raises:
        RequestError: A value has a type that its column does not accept.

    Example:
        >>> table_of([{"height": 170, "name": "x"}, {}], {"height": Column("number")})["height"].to_pylist()
        [170, None]
    """
    found: dict[str, pa.Array] = {}
    for name, column in columns.items():
        if any(name in row for row in rows):
            values = [row.get(name) for row in rows]
            _check(values, column, name)
            try:
                found[name] = _READ[column.kind](values)
            except UnicodeEncodeError:
                raise RequestError(422, f"{shown(name, 60)}: expected text, got half of a surrogate pair") from None
    return pa.table(found)


def _check(values: Sequence[Any], column: Column, name: str) -> None:
    expected, takes = _KINDS[column.kind]
    for row, value in enumerate(values):
        if value is not None and not (isinstance(value, takes) and _is_right(value, column)):
            expected = expected.format(column.width)
            raise RequestError(422, f"rows[{row}].{shown(name, 60)}: expected {expected} or null, got {_got(value)}")
    if column.kind == "time" and len({isinstance(value, str) for value in values if value is not None}) > 1:
        raise RequestError(422, f"{shown(name, 60)}: expected times all as text or all as epoch seconds, got both")


def _is_right(value: Any, column: Column) -> bool:
    if column.kind == "list":
        sized = column.width - column.spare <= len(value) <= column.width
        return sized and all(isinstance(number, int | float) for number in value)
    if column.kind == "task":
        return not isinstance(value, bool) and INT64.min <= value <= INT64.max and value == int(value)
    return column.kind != "time" or not isinstance(value, bool)


def _got(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    names = {bool: "true or false", str: "text", dict: "an object"}
    return names.get(type(value), "another number")


def _numbers(values: Sequence[Any]) -> pa.Array:
    """Return text if any value is text, else integers if all are. Encoding refuses text that is no number."""
    if any(isinstance(value, str) for value in values):
        return _texts(values)
    if all(value is None or (isinstance(value, int) and INT64.min <= value <= INT64.max) for value in values):
        return pa.array([None if value is None else int(value) for value in values], pa.int64())
    return pa.array([None if value is None else _float(value) for value in values], pa.float64())


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond float64; a row with infinity is refused
        return float("inf")


def _lists(values: Sequence[Any]) -> pa.Array:
    found = [None if value is None else [_float(number) for number in value] for value in values]
    return pa.array(found, pa.list_(pa.float64()))


def _texts(values: Sequence[Any]) -> pa.Array:
    return pa.array([text(value) for value in values], pa.string())


def _tasks(values: Sequence[Any]) -> pa.Array:
    return pa.array([None if value is None else int(value) for value in values], pa.int64())


def _raw(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise RequestError(422, f"rows: expected values of one type in a column, got others: {error}") from None


_KINDS: dict[str, tuple[str, Any]] = {
    "number": ("a number", (int, float, str)),
    "list": ("a list of {} numbers", list),
    "category": ("text, a number, true, false", (str, int, float)),
    "time": ("a time as ISO text or epoch seconds", (str, int, float)),
    "task": ("the number of a task", (int, float)),
    "raw": ("a value", object),
}
"""For each kind of column: the text of the error message, and the accepted types."""

_READ: dict[str, Callable[[Sequence[Any]], pa.Array]] = {
    "number": _numbers,
    "list": _lists,
    "category": _texts,
    "time": _numbers,
    "task": _tasks,
    "raw": _raw,
}
