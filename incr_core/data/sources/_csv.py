"""CSV as it is written in different places: what parts values, and how numbers are written."""

from __future__ import annotations

import csv
import re
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from incr_core.errors import ArgumentError

__all__ = ["CsvFormat", "found_csv_format", "read_csv"]

DELIMITERS = ",;\t|"
DECIMALS = ".,"
THOUSANDS = (None, ",", ".", "'", " ", "\u00a0", "\u202f")


class CsvFormat(str):
    """The format "csv" of a stream, with what parts values and how numbers are written.

    It goes wherever the name of a format goes.

    Args:
        delimiter: One character between the values of a line.
        decimal: "." or ",".
        thousands: What parts groups of three digits, or None.

    Raises:
        ArgumentError: An argument is none of these, or two of them are the same.

    Example:
        >>> german = CsvFormat(";", ",", ".")
        >>> german == "csv", german.decimal
        (True, ',')
    """

    delimiter: str
    decimal: str
    thousands: str | None

    def __new__(cls, delimiter: str = ",", decimal: str = ".", thousands: str | None = None) -> Self:
        made = super().__new__(cls, "csv")
        if len(delimiter) != 1 or delimiter in '"\r\n' or not delimiter.isascii():
            raise ArgumentError(
                f'csv.delimiter: expected one ASCII character such as ";", got {delimiter!r}; leave it out for a comma'
            )
        if decimal not in (".", ","):
            raise ArgumentError(f'csv.decimal: expected "." or ",", got {decimal!r}; leave it out for a point')
        if thousands not in THOUSANDS:
            raise ArgumentError(f"csv.thousands: expected a comma, point, apostrophe or space, got {thousands!r}")
        if thousands == decimal:
            raise ArgumentError(f"csv.thousands: expected another sign than csv.decimal, got {thousands!r} for both")
        made.delimiter, made.decimal, made.thousands = delimiter, decimal, thousands
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.delimiter, self.decimal, self.thousands)

    @property
    def settings(self) -> dict[str, str]:
        """The differences from plain CSV, by the keys of `stream.csv`."""
        plain = {"delimiter": ",", "decimal": ".", "thousands": None}
        return {key: value for key, default in plain.items() if (value := getattr(self, key)) != default}


def read_csv(file: Any, kind: str) -> pa.Table:
    """Read a CSV file, or a stream of one; kind: "csv", or a `CsvFormat`."""
    if not isinstance(kind, CsvFormat):
        return pyarrow.csv.read_csv(file)
    table = pyarrow.csv.read_csv(
        file,
        parse_options=pyarrow.csv.ParseOptions(delimiter=kind.delimiter),
        convert_options=pyarrow.csv.ConvertOptions(decimal_point=kind.decimal),
    )
    if kind.thousands is None and kind.decimal == ".":
        return table
    columns = [_plain_numbers(column, kind) if pa.types.is_string(column.type) else column for column in table.columns]
    return pa.table(columns, names=table.column_names)


def _plain_numbers(column: pa.ChunkedArray, kind: CsvFormat) -> pa.ChunkedArray:
    """Text in which numbers are written with a point and without thousands; as numbers where all of it is."""
    number = pc.match_substring_regex(column, _number(kind))
    if not pc.any(number, min_count=0).as_py():
        return column
    plain = column
    if kind.thousands is not None:
        plain = pc.replace_substring(plain, kind.thousands, "")
    plain = pc.replace_substring(plain, kind.decimal, ".")
    column = pc.if_else(number, plain, column)
    empty = pc.equal(column, "")
    if pc.all(pc.or_(number, empty), min_count=0).as_py():  # nulls aside
        return pc.cast(pc.if_else(empty, None, column), pa.float64())
    return column


def _number(kind: CsvFormat) -> str:
    """A pattern of numbers as `kind` writes them."""
    whole = r"\d+"
    if kind.thousands is not None:
        whole = rf"(\d{{1,3}}({re.escape(kind.thousands)}\d{{3}})+|\d+)"
    return rf"^\s*[-+]?{whole}({re.escape(kind.decimal)}\d*)?([eE][-+]?\d+)?\s*$"


def found_csv_format(text: str) -> CsvFormat:
    r"""Infer the format of a CSV file from its first lines, which must be whole.

    Candidates for the delimiter split all lines into the same number of values. The one with the most values in the
    first line is chosen. A number that is valid with one decimal sign only decides on that sign. Groups of three digits
    decide on the thousands sign.

    >>> found_csv_format("a;b\n1.234,5;x\n7,25;y\n").settings
    {'delimiter': ';', 'decimal': ',', 'thousands': '.'}
    >>> found_csv_format("a,b\n1.5,x\n").settings
    {}
    """
    lines = [line for line in text.splitlines() if line.strip()]
    delimiter = max(DELIMITERS, key=lambda sign: (_parts_evenly(lines, sign), -DELIMITERS.index(sign)))
    values = [value.strip() for row in csv.reader(lines[1:], delimiter=delimiter) for value in row]
    best, most = CsvFormat(delimiter), -1
    for decimal in DECIMALS:
        for thousands in THOUSANDS:
            if thousands == decimal:
                continue
            one = CsvFormat(delimiter, decimal, thousands)
            explained = sum(bool(re.match(_number(one), value)) for value in values)
            if explained > most:  # of those that explain equally many, the plainest
                best, most = one, explained
    return best


def _parts_evenly(lines: list[str], sign: str) -> int:
    """Into how many values a sign parts each line; 0 where lines differ, or it parts none."""
    counts = {len(row) for row in csv.reader(lines, delimiter=sign)}
    return counts.pop() if len(counts) == 1 and counts != {1} else 0
