"""Effects of columns on predictions, measured by replacing the values of a column with those of other rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from incr_core.data.sources import as_table, read_rows_file
from incr_core.errors import ArgumentError
from incr_core.runs._version import Version

__all__ = ["Explained", "explain"]

REPEATS = 10
"""Default number of other rows whose values replace those of a column."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Explained:
    """The effect of each column on the predictions of some rows.

    of: the predicted quantity: "probability", "probability of the predicted class" or "value", in its own unit.
    effects: column -> effect on each row, (n,), NaN for rows that cannot be predicted. overall: column -> mean absolute
    effect, the largest first.
    """

    of: str
    effects: dict[str, Floats]
    overall: dict[str, float]

    def beside(self, answers: pa.Table) -> pa.Table:
        """Return the predictions, followed by the columns `effect.COLUMN`."""
        columns = {f"effect.{name}": pa.array(values, from_pandas=True) for name, values in self.effects.items()}
        return pa.table({name: answers[name] for name in answers.column_names} | columns)


def explain(version: Version, rows: str | Path | Any, repeats: int = REPEATS, seed: int = 0) -> Explained:
    """Measure the effect of each column on the predictions of a version.

        effect_j(x) = f(x) - mean_r f(x with column j of row r)          overall_j = mean_x |effect_j(x)|

    The mean is over `repeats` random rows r of the same file, so a value is compared with the usual values of its
    column. Columns are changed one at a time, before encoding. An interaction of two columns appears in the effects of
    both, and effects do not add up to the prediction. Effects describe what the model uses, which need not be a cause.

    Args:
        version: The version to explain.
        rows: A file, or a table; at least two rows that can be used.
        repeats: Other rows for each column.
        seed: The seed of the draw of these rows.

    Returns:
        Effects by row and overall, for the job's feature columns and the keys of its rates.

    Raises:
        ArgumentError: The objective is not binary, multiclass or regression.

    Reference:
        Breiman 2001, "Random forests", section 10, for single predictions as in Robnik-Sikonja and Kononenko 2008,
        "Explaining classifications for individual instances".
    """
    kind = version.job.learner.objective
    of = {"binary": "probability", "multiclass": "probability of the predicted class", "regression": "value"}.get(kind)
    if of is None:
        raise ArgumentError(
            f"explain: expected a run of the objective binary, multiclass or regression, got {kind}; leave it out"
        )
    table, name = _table(version, rows)
    answered = version.encoded(table, name, prepared=True)
    usable = answered.offsets.numpy()
    found, batch = np.full(len(table), np.nan), answered.batch
    predicted = version.learner.predict(batch.inputs)
    chosen = predicted.argmax(1) if kind == "multiclass" else None
    found[usable] = _number(predicted, chosen)
    draw = np.random.default_rng(seed)
    effects = {}
    for column in _columns(version):
        change, counted = np.zeros(len(table)), np.zeros(len(table))
        for _ in range(repeats):
            source = np.arange(len(table))
            source[usable] = draw.permutation(usable)
            place = table.column_names.index(column)
            permuted = table.set_column(place, column, table[column].take(pa.array(source)))
            changed = version.encoded(permuted, name, prepared=True)
            offsets = changed.offsets.numpy()
            of_rows = None if chosen is None else chosen[np.searchsorted(usable, offsets)]
            change[offsets] += found[offsets] - _number(version.learner.predict(changed.batch.inputs), of_rows)
            counted[offsets] += 1
        effects[column] = np.divide(change, counted, out=np.full(len(table), np.nan), where=counted > 0)
    sizes = {column: float(np.nanmean(abs(values))) for column, values in effects.items()} if len(usable) else {}
    return Explained(of, effects, dict(sorted(sizes.items(), key=lambda one: -one[1])))


def _columns(version: Version) -> list[str]:
    features = version.job.features
    keys = [column for rate in version.job.rates() for column in rate.by]
    kinds = (features.numeric, features.categorical, features.text, features.date, features.ids, keys)
    named = [column for columns in kinds for column in columns]
    return list(dict.fromkeys(named))


def _number(predicted: Any, chosen: Any) -> Floats:
    """The number of each prediction that is explained, (n,)."""
    values = predicted if chosen is None else predicted.gather(1, chosen[:, None]).squeeze(1)
    return np.asarray(values.double().numpy())


def _table(version: Version, rows: str | Path | Any) -> tuple[pa.Table, str]:
    if not isinstance(rows, str | Path):
        table, name = as_table(rows, "the table"), "the table"
    else:
        table, name = read_rows_file(rows, None, version.job.stream.file_format)
    prepare = version.job.prepare()
    return (table if prepare is None else prepare(table, name)), name
