"""The objective for a label, by its values."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from incr_core.data.encoding import ColumnKind, is_list, parsed, text
from incr_core.errors import ArgumentError
from incr_core.shown import shown

__all__ = ["ProposedLabel", "label_of"]

FEW = 20
"""Number of distinct values up to which whole numbers count as classes, if many rows have each value."""

MOST = 1000
"""More values than this are no classes."""


@dataclass(frozen=True, slots=True)
class ProposedLabel:
    """A label's objective. `told`: its description; `otherwise`: the alternative; `missing`: rows without a label."""

    name: str
    objective: str
    told: str
    otherwise: str = ""
    missing: int = 0


def label_of(name: str, column: pa.ChunkedArray, kind: ColumnKind) -> ProposedLabel:
    """The objective for a label. Raises ArgumentError where it is the same in all rows, or another in each.

    >>> column = pa.chunked_array([["a", "b", "a"]])
    >>> label_of("y", column, ColumnKind("category", 2, 0)).told
    'binary: a 67%, b 33%'
    """
    if is_list(column.type):
        return ProposedLabel(name, "multilabel", "multilabel: lists of labels", missing=kind.missing)
    if kind.name == "time" or kind.name == "other":
        raise ArgumentError(f"label {name}: expected classes or numbers, got {kind.why or 'times'}; name another")
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_string(column.type) and kind.name == "number":  # of a CSV file
        column = parsed(column, name, name)[0]
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
    missing, present = column.null_count, pc.drop_null(column)
    if len(present) == 0 or kind.distinct < 2:
        only = f'"{shown(text(present[0].as_py()), 40)}" in every row' if len(present) else "no value in any row"
        raise ArgumentError(f"label {name}: expected at least two values to tell apart, got {only}; name another")
    numeric = pa.types.is_integer(present.type) or pa.types.is_floating(present.type)
    if numeric and kind.distinct > 2:
        values = pc.cast(present, pa.float64(), safe=False).to_numpy()
        span = f"numbers from {values.min():.6g} to {values.max():.6g}"
        whole = bool((values % 1 == 0).all())
        if not whole or kind.distinct > FEW or kind.distinct * 5 > len(present):
            return ProposedLabel(name, "regression", f"regression: {span}", missing=missing)
        told = f"multiclass: {_shares(present)}"
        return ProposedLabel(name, "multiclass", told, f'"regression", if the {span} are amounts', missing)
    if kind.distinct > MOST or (kind.distinct > 20 and kind.distinct * 2 > len(present)):
        raise ArgumentError(
            f"label {name}: expected classes or numbers, got {kind.distinct:,} distinct texts in "
            f"{len(present):,} rows; name another"
        )
    objective = "binary" if kind.distinct == 2 else "multiclass"
    return ProposedLabel(name, objective, f"{objective}: {_shares(present)}", missing=missing)


def _shares(column: pa.ChunkedArray) -> str:
    """The commonest classes, and how common they are."""
    counts = sorted(pc.value_counts(column).to_pylist(), key=lambda found: -found["counts"])
    some = [f"{shown(text(one['values']), 20)} {_percent(one['counts'] / len(column))}" for one in counts[:4]]
    return ", ".join(some) + f", and {len(counts) - 4} more" * (len(counts) > 4)


def _percent(share: float) -> str:
    """Format a share with enough digits that a rare class does not appear as 0%.

    >>> _percent(0.5), _percent(0.0004)
    ('50%', '0.04%')
    """
    return f"{100 * share:.0f}%" if share >= 0.01 else f"{100 * share:.1g}%"
