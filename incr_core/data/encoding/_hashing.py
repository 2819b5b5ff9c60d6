"""Hashing of a column's values, identical on every machine and in every process."""

from __future__ import annotations

from datetime import datetime, time
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from incr_core.errors import StreamError

__all__ = ["ColumnHash", "id_key", "id_keys", "indexed", "text"]

Codes = np.ndarray[Any, np.dtype[Any]]  # of any integer type


def text(value: object) -> str | None:
    """Return a value as text, independent of its type in the file.

    1, 1.0 and "1" are the same category; a date equals its midnight.

    Example:
        >>> text(1.0), text(True), text("EWR"), text(None), text(Decimal("1.50")), text(datetime(2020, 1, 1))
        ('1', 'true', 'EWR', None, '1.5', '2020-01-01')
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Decimal):
        # The same text as for a column of floats, if a float can represent the number.
        same = int(value) if value == value.to_integral_value() else float(value)
        return str(same) if Decimal(repr(same)) == value else format(value.normalize(), "f")
    if isinstance(value, datetime) and value.tzinfo is None and value.time() == time.min:
        return str(value.date())
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def indexed(column: pa.ChunkedArray, place: str = "stream") -> tuple[list[object], Codes]:
    """Return the distinct values of a column, and the index of each row's value among them.

    Some values may occur in no row: dictionaries may contain unused values, and integers are listed by range. `place`
    names column and file in errors.

    Example:
        >>> indexed(pa.chunked_array([["b", None, "b"]]))
        (['b', None], array([0, 1, 0]))
    """
    if len(column) == 0:
        return [], np.zeros(0, dtype=np.int32)
    if pa.types.is_null(column.type):
        return [None], np.zeros(len(column), dtype=np.int32)
    if pa.types.is_integer(column.type):
        bounds = pc.min_max(column).as_py()
        # Integers in a small range need no dictionary.
        if bounds["min"] is not None and bounds["max"] - bounds["min"] < len(column) // 8:
            codes = _joined(
                pc.subtract(column, pa.scalar(bounds["min"], column.type)), bounds["max"] - bounds["min"] + 1
            )
            return [*range(bounds["min"], bounds["max"] + 1), None], codes
    if not pa.types.is_dictionary(column.type):
        try:
            column = pc.dictionary_encode(column)
        except pa.ArrowNotImplementedError:
            raise StreamError(
                f"{place}: expected text, numbers or true and false, got {column.type}; convert it or leave it out"
            ) from None
    elif column.num_chunks > 1:
        column = column.unify_dictionaries()
    values = _listed(column.chunk(0).dictionary)
    return [*values, None], _joined(pa.chunked_array([chunk.indices for chunk in column.chunks]), len(values))


def _listed(values: pa.Array) -> list[object]:
    """Return distinct values as Python objects, independent of the width or unit in the file."""
    if pa.types.is_float32(values.type) or pa.types.is_float16(values.type):
        # The float32 0.1 is 0.1, not the double nearest to it.
        kind = values.type.to_pandas_dtype()
        return [None if value is None else float(str(kind(value))) for value in values.to_pylist()]
    if pa.types.is_timestamp(values.type):
        zone = None if values.type.tz is None else "UTC"
        return list(pc.cast(values, pa.timestamp("us", tz=zone), safe=False).to_pylist())
    return list(values.to_pylist())


def _joined(codes: pa.ChunkedArray, null: int) -> Codes:
    """Return the codes as one array, with `null` for nulls; without a copy if they are one already."""
    if codes.null_count:
        codes = pc.fill_null(pc.cast(codes, pa.int64()), null)  # may exceed the range of a narrow type
    chunks = [chunk.to_numpy() for chunk in codes.chunks]
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


class ColumnHash:
    """64-bit hashes of one column's values; each distinct value is hashed once.

    Args:
        column: Name of the column, which is the key of the hash.

    Example:
        >>> hashes = ColumnHash("carrier")(pa.chunked_array([["AA", "UA", "AA", None]]))
        >>> bool(hashes[0] == hashes[2]), len(set(hashes.tolist()))
        (True, 3)
    """

    LIMIT = 200_000
    """Maximum number of cached distinct values, so that a column of ids does not fill the memory."""

    def __init__(self, column: str) -> None:
        self._name = column
        self._salt = blake2b(column.encode(), digest_size=16).digest()
        self._seen: dict[str | None, int] = {}
        # Chunks of one file often share a dictionary, and comparing it is much faster than looking up its values.
        self._latest: tuple[pa.DataType, list[object], np.ndarray[Any, np.dtype[np.uint64]]] | None = None

    def __call__(self, column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Return the hash of each row's value, (B,) uint64; null has its own."""
        hashes, codes = self.distinct(column)
        return hashes.take(codes) if len(codes) else np.zeros(0, dtype=np.uint64)

    def distinct(
        self, column: pa.ChunkedArray, place: str | None = None
    ) -> tuple[np.ndarray[Any, np.dtype[np.uint64]], Codes]:
        """Return the hashes of the distinct values (D,), and the index of each row's value (B,)."""
        values, codes = indexed(column, f"stream.features.{self._name}" + (f" in {place}" if place else ""))
        if self._latest is None or self._latest[0] != column.type or self._latest[1] != values:
            hashes = np.fromiter((self.of(text(value)) for value in values), np.uint64, len(values))
            self._latest = column.type, values, hashes
        return self._latest[2], codes

    def of(self, value: str | None) -> int:
        """Return the hash of one value, as written by `text`."""
        known = self._seen.get(value)
        if known is None:
            if len(self._seen) >= self.LIMIT:
                self._seen.clear()
            # The prefixes distinguish null from the texts "None" and "".
            data = b"0" if value is None else b"1" + value.encode("utf-8", "surrogatepass")
            known = int.from_bytes(blake2b(data, digest_size=8, key=self._salt).digest(), "little")
            self._seen[value] = known
        return known


def id_key(hashed: ColumnHash, value: object) -> int:
    """The key of one id: its hash as a signed number of 64 bits, never 0; 0 where the id is missing.

    >>> id_key(ColumnHash("user"), None), id_key(ColumnHash("user"), 42) == id_key(ColumnHash("user"), "42")
    (0, True)
    """
    written = text(value)
    if written is None:
        return 0
    key = hashed.of(written)
    return (key - 2**64 if key >= 2**63 else key) or 1


def id_keys(
    column: pa.ChunkedArray, hashed: ColumnHash, place: str | None = None
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The key of each row's id, (B,) int64, see `id_key`. `place` names the file in errors.

    Of a million ids, two share a key with a probability of 3e-8.

    >>> keys = id_keys(pa.chunked_array([[7, None, 7]]), ColumnHash("user"))
    >>> bool(keys[0] == keys[2] == id_key(ColumnHash("user"), "7")), keys[1]
    (True, np.int64(0))
    """
    distinct, codes = hashed.distinct(column, place)
    keys = distinct.astype(np.int64)
    missing = distinct == np.uint64(hashed.of(None))
    keys = np.where(missing, 0, np.where(keys == 0, 1, keys))
    return keys.take(codes) if len(codes) else np.zeros(0, dtype=np.int64)
