"""Proposal of a job for given files: the kind of each column, its use and the reason."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from incr_core._util import unknown
from incr_core.data.encoding import ColumnKind, gives_away, kind_of_column, text
from incr_core.data.sources import (
    CsvFormat,
    FileSource,
    Sample,
    found_csv_format,
    index_columns,
    is_opaque,
    open_source,
    sample_of,
)
from incr_core.errors import ArgumentError, StreamError
from incr_core.job._proposed_label import ProposedLabel, label_of
from incr_core.job._proposed_times import ProposedTimes, times_of
from incr_core.shown import shown

__all__ = ["Proposal", "ProposedColumn", "looked_at", "propose"]

USES = {
    "number": "numeric",
    "list": "numeric",
    "category": "categorical",
    "flag": "categorical",
    "id": "categorical",
    "text": "text",
    "time": "date",
}
"""The key of [features] in which columns of each kind are named; others are left out."""

MANY_IDS, FEW_OTHERS = 50, 4
"""Distinct ids from which each gets its own row, and the largest number of other columns for which ids get rows."""


LOOKED_AT = 1 << 16
"""Bytes of a CSV file that are looked at for how it is written."""


@dataclass(slots=True)
class ProposedColumn:
    """A column of a sample: its kind, an example of its values, and its use.

    use: a key of [features] or of [stream], or "exclude". why: the reason in words, if needed. leaks: whether it is
    left out because it gives the label away.
    """

    name: str
    values: pa.ChunkedArray
    kind: ColumnKind
    example: str
    use: str
    why: str
    leaks: bool = False


@dataclass(slots=True)
class Proposal:
    """A job for some files.

    empty_rows: rows in which no feature has a value. csv: how CSV files are written, where that is not the plain way.
    """

    path: str
    sample: Sample
    columns: list[ProposedColumn]
    label: ProposedLabel | None = None
    times: ProposedTimes = field(default_factory=ProposedTimes)
    empty_rows: int = 0
    csv: CsvFormat | None = None

    def used_as(self, use: str) -> list[ProposedColumn]:
        """The columns that are put to a use."""
        return [column for column in self.columns if column.use == use]


def looked_at(path: str | Path) -> Proposal:
    """Inspect the columns of some files, before a label is chosen.

    Raises StreamError where there are no files, no rows, or files of several kinds.
    """
    source = open_source(path)
    if not isinstance(source, FileSource):
        raise StreamError(f"{path}: expected a file, a folder or a glob, got a function; write its job by hand")
    written = _csv_format(source)
    if written is not None:
        source = open_source(path, written)
        assert isinstance(source, FileSource)
    sample, schema = sample_of(source), source.head().schema
    indices = {*index_columns(schema), *(field.name for field in schema if is_opaque(field))}
    columns = []
    for name in sample.table.column_names:
        values = sample.table[name]
        at = schema.get_field_index(name)
        declared = at >= 0 and pa.types.is_dictionary(schema.field(at).type)
        kind = kind_of_column(name, values, guessed=source.is_csv, declared=declared)
        if name in indices:
            kind = ColumnKind("index", kind.distinct, kind.missing, "it numbers the rows (pandas' index)")
        use = USES.get(kind.name, "exclude")
        columns.append(ProposedColumn(name, values, kind, _example(values), use, kind.why))
    return Proposal(str(path), sample, columns, csv=written)


def _csv_format(source: FileSource) -> CsvFormat | None:
    """The format of the first of some CSV files, if it is not plain CSV."""
    if not source.is_csv:
        return None
    path = next(iter(source.paths.values()))
    packed = "gzip" if path.name.lower().endswith(".gz") else None
    with pa.input_stream(path.open("rb"), compression=packed) as file:
        text = file.read(LOOKED_AT).decode(errors="replace")
    found = found_csv_format(text if len(text) < LOOKED_AT else text[: text.rfind("\n")])
    return found if found.settings else None


def propose(path: str | Path, label: str) -> Proposal:
    """A job that learns `label` from the files at `path`.

    Raises ArgumentError where there is no such label, or it cannot be learned; StreamError as `looked_at`.
    """
    found = looked_at(path)
    names = [column.name for column in found.columns]
    if label not in names:
        raise ArgumentError(f"label: {unknown(f'a column of {shown(path)}', label, names)}")
    chosen = found.columns[names.index(label)]
    found.label = label_of(label, chosen.values, chosen.kind)
    chosen.use, chosen.why = "label", found.label.told
    found.times = times_of({c.name: c.values for c in found.columns if c.kind.name in ("time", "number")})
    for column in found.columns:
        if column.use in ("label", "exclude"):
            continue
        if column.name == found.times.predict_at:
            column.use, column.why = "predict_at", "the order in which rows are predicted and learned"
        elif column.name in found.times.later:
            column.use = "exclude"
            column.why = f"mostly after {found.times.predict_at}: not known when a row is predicted?"
        elif column.use in ("numeric", "categorical") and gives_away(
            column.values, chosen.values, classes=found.label.objective != "regression"
        ):
            column.use, column.why = "exclude", f"gives {label} away by itself: known before {label} is?"
            column.leaks = True
    _keep_one(found, label)
    found.empty_rows = _empty_rows([c.values for c in found.columns if c.use in set(USES.values())])
    _factorise(found)
    return found


def _keep_one(found: Proposal, label: str) -> None:
    """Take leaks for features where nothing else is left. ArgumentError where there is no feature at all."""
    if any(column.use in set(USES.values()) for column in found.columns):
        return
    for column in found.columns:
        if column.leaks:
            column.use, column.why = USES[column.kind.name], f"gives {label} away by itself, and there is no other"
    if not any(column.use in set(USES.values()) for column in found.columns):
        raise ArgumentError(
            f"label {label}: expected other columns to predict it from, got none that tells anything of it "
            f"({', '.join(shown(c.name, 60) for c in found.columns if c.use != 'label') or 'no other column'})"
        )


def _factorise(found: Proposal) -> None:
    """Give each id its own row if the columns are two or more ids and few others."""
    ids = [column for column in found.columns if column.kind.name == "id" and column.use == "categorical"]
    ids = [column for column in ids if column.kind.distinct >= MANY_IDS]
    others = [column for column in found.columns if column.use in set(USES.values()) and column not in ids]
    if found.label is None or len(ids) < 2 or len(others) > FEW_OTHERS or any(c.use == "text" for c in others):
        return
    if found.label.objective == "multiclass" and found.label.otherwise:  # stars are amounts
        stars = found.label.told.replace("multiclass", "regression")
        found.label = replace(found.label, objective="regression", told=stars, otherwise='"multiclass", if names')
        next(column for column in found.columns if column.use == "label").why = stars
    if found.label.objective not in ("regression", "binary"):
        return
    for column in ids:
        column.use, column.why = "ids", f"{column.kind.distinct:,} ids, each with a row of numbers of its own"


def _empty_rows(columns: list[pa.ChunkedArray]) -> int:
    """In how many rows all columns are null."""
    empty = None
    for column in columns:
        null = pc.is_null(column)
        empty = null if empty is None else pc.and_(empty, null)
    return 0 if empty is None else int(pc.sum(empty).as_py() or 0)


def _example(column: pa.ChunkedArray) -> str:
    """The first value that is there."""
    present = pc.drop_null(column.slice(0, 10_000))
    if not len(present):
        return ""
    value = present[0].as_py()
    if isinstance(value, list):
        return f"{len(value)} values"
    return f"{value:.6g}" if isinstance(value, float) else str(text(value))
