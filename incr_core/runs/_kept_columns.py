"""Columns of the rows beside their predictions, to identify each prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from incr_core.data.sources import as_table, check_columns, read_rows_file
from incr_core.errors import ArgumentError

__all__ = ["with_columns"]


def with_columns(answers: pa.Table, rows: str | Path | Any, keep: Sequence[str], format: str | None) -> pa.Table:
    """Answers with some columns of the rows behind `row`, of a file (of this format, if its name has none) or a
    table.

    Raises StreamError where the rows have no such column, ArgumentError where answers have one.

    >>> answers = pa.table({"row": [0, 1], "probability": [0.5, 0.25]})
    >>> with_columns(answers, {"id": ["a", "b"], "x": [1, 2]}, ["id"], None).to_pylist()[1]
    {'row': 1, 'id': 'b', 'probability': 0.25}
    """
    if not keep:
        return answers
    if taken := [name for name in keep if name in answers.column_names]:
        raise ArgumentError(
            f"keep {taken[0]}: expected a column that predictions do not have, got one of "
            f"{', '.join(answers.column_names)}; leave it out, or rename it in the rows"
        )
    if isinstance(rows, str | Path):
        table, _ = read_rows_file(rows, keep, format)
    else:
        table = as_table(rows, "the table")
        check_columns(table.column_names, keep, "the table")
    columns = {"row": answers["row"], **{name: table[name] for name in keep}}
    return pa.table(columns | {name: answers[name] for name in answers.column_names})
