"""Columns of the rows beside their predictions, to identify each prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from incr_core.data.sources import as_table, check_columns, read_rows_file
from incr_core.errors import ArgumentError
from incr_core.job import Job

__all__ = ["with_columns"]


def with_columns(answers: pa.Table, rows: str | Path | Any, keep: Sequence[str], job: Job) -> pa.Table:
    """Return answers with some columns of their rows after the column `row`.

    Args:
        answers: The answers.
        rows: A file or a table.
        keep: Columns of the rows, or of what `features.prepare` returns for them.
        job: The job, which says how a file is read.

    Raises:
        StreamError: The rows have no such column.
        ArgumentError: The answers have a column of this name.

    Example:
        >>> features, learner = {"label": "y", "numeric": ["x"]}, {"objective": "binary"}
        >>> job = Job.from_document({"stream": {"path": "x.csv"}, "features": features, "learner": learner})
        >>> answers = pa.table({"row": [0, 1], "probability": [0.5, 0.25]})
        >>> with_columns(answers, {"id": ["a", "b"], "x": [1, 2]}, ["id"], job).to_pylist()[1]
        {'row': 1, 'id': 'b', 'probability': 0.25}
    """
    if not keep:
        return answers
    if taken := [name for name in keep if name in answers.column_names]:
        raise ArgumentError(
            f"keep {taken[0]}: expected a column that predictions do not have, got one of "
            f"{', '.join(answers.column_names)}; leave it out, or rename it in the rows"
        )
    prepare = job.prepare()
    if isinstance(rows, str | Path):
        table, name = read_rows_file(rows, keep if prepare is None else None, job.stream.file_format)
    else:
        table, name = as_table(rows, "the table"), "the table"
    if prepare is not None and any(column not in table.column_names for column in keep):
        found = prepare(table, name)
        for column in found.column_names:  # a raw column takes precedence
            if column not in table.column_names:
                table = table.append_column(column, found[column])
    check_columns(table.column_names, keep, name)
    columns = {"row": answers["row"], **{name: table[name] for name in keep}}
    return pa.table(columns | {name: answers[name] for name in answers.column_names})
