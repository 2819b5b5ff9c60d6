"""Specification of the encoding of rows and the reading of outputs, as JSON, for `encoder.py` or another encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from incr_core.data.encoding import Encoder
from incr_core.data.rates import Rate
from incr_core.errors import JobError
from incr_core.export._answering import OUTPUTS
from incr_core.export.encoder import Encoder as Exported
from incr_core.job import Job

__all__ = ["specification"]

CATEGORY = (
    "The text t of a value: text as it is; a whole number, also 1.0, in digits; another float in the fewest digits "
    "that read back the same; true or false; a time as YYYY-MM-DD, and HH:MM:SS where it is no midnight. "
    "key = BLAKE2b(the column's name, 16 bytes). h = BLAKE2b(b'1' + t, 8 bytes, keyed with key), or of b'0' where the "
    "value is missing, as a little-endian integer. The codes are (h mod 2^32) mod buckets and (h div 2^32) mod buckets."
)
MISSING = "A number that is missing is NaN, which the model knows. NaN and infinity in rows are errors."
SCALING = "In the model: numbers go in as they are, those too large for a float32 are errors."
PREPARED = "The columns are those that {} returns for raw rows. It is not part of the export: apply it first."
TIMES = "As numbers, dates and times are days since 1970 in UTC, durations and times of day seconds."


def specification(job: Job, version: int, columns: Sequence[str], inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Return the content of `encoder.json`.

    Args:
        job: The job.
        version: The version's number.
        columns: Columns of the version's answers.
        inputs: Inputs of some rows.

    Raises:
        JobError: Two features would have the same name.
    """
    encoder, rates = job.encoder, job.rates()
    made: dict[str, Any] = {
        "schema": 1,
        "job": job.name,
        "version": version,
        "inputs": [_tensor(name, value) for name, value in inputs.items()],
        "columns": [*_numbers(encoder), *_rates(rates, encoder), *_categories(encoder)],
        "buckets": encoder.buckets,
        "category": CATEGORY,
        "missing": MISSING,
        "scaling": SCALING,
        "times": TIMES,
        "answers": _answers(job, columns),
    }
    if job.features.prepare is not None:
        made["prepare"] = PREPARED.format(job.features.prepare)
    if "task" in inputs:
        made["columns"].append({"name": encoder.task, "kind": "task", "below": encoder.tasks})
    if encoder.categorical:
        made["examples"] = _examples(encoder)
    return made


def _tensor(name: str, value: Tensor) -> dict[str, Any]:
    return {"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": ["rows", *value.shape[1:]]}


def _numbers(encoder: Encoder) -> list[dict[str, Any]]:
    found = []
    for name, places in encoder.places.items():
        kind = "numbers" if name in encoder.widths else "number"
        column: dict[str, Any] = {"name": name, "kind": kind, "places": [places.start, places.stop]}
        if name in encoder.ids:
            column["ids"] = [encoder.ids[name].start, encoder.ids[name].stop - 1]
        found.append(column)
    return found


def _rates(rates: Sequence[Rate], encoder: Encoder) -> list[dict[str, Any]]:
    """Return two columns for each rate. The service computes their values, because it has the labels."""
    names = [name for rate in rates for name in _names(rate)]
    if twice := sorted({name for name in names if names.count(name) > 1 or name in encoder.inputs}):
        raise JobError(
            "features.rate: expected rates of different names to export, since they are passed by name, got two "
            f"called {twice[0]!r}; give one another window or key"
        )
    found = []
    for at, (kind, rate) in enumerate((kind, rate) for rate in rates for kind in ("rate", "count")):
        start = encoder.width + at
        found.append(
            {
                "name": _names(rate)[kind == "count"],
                "kind": kind,
                "places": [start, start + 1],
                "means": _meaning(rate, kind),
            }
        )
    return found


def _names(rate: Rate) -> tuple[str, str]:
    """Return the names of a rate's two numbers.

    That of the count includes the outcome, since counts may differ by outcome.

    Example:
        >>> _names(Rate(["origin"], "2h", outcome="delay"))
        ('rate of delay by origin in 2h', 'count of delay by origin in 2h')
    """
    name = rate.names[0]
    return name, f"count{name.removeprefix('rate')}"


def _meaning(rate: Rate, kind: str) -> str:
    same = f" with the row's {', '.join(rate.by)}" if rate.by else ""
    hours = "" if rate.window is None else f" in the {float(rate.window) / 3600:g} hours before the row's time"
    rows = f"the rows{same} of which {rate.outcome or 'the label'} became known{hours}"
    if kind == "count":
        return f"work it out in the service: how many are {rows}"
    prior = "the mean over the rows of all keys" if rate.prior is None else f"{rate.prior:g}"
    outcome = rate.outcome or "the label"
    return (
        f"work it out in the service: (sum of {outcome} + {rate.weight:g} * prior) / (count + {rate.weight:g}) over "
        f"{rows}; the prior is {prior}"
    )


def _categories(encoder: Encoder) -> list[dict[str, Any]]:
    return [{"name": name, "kind": "category", "place": place} for place, name in enumerate(encoder.categorical)]


def _examples(encoder: Encoder) -> list[dict[str, Any]]:
    """Return codes for testing another encoder: of the first column, for arbitrary values."""
    name = encoder.categorical[0]
    column = {"name": name, "kind": "category", "place": 0}
    own = Exported(
        {"inputs": [{"name": "categorical", "shape": ["rows", 1, 2]}], "columns": [column], "buckets": encoder.buckets}
    )
    values = [None, "", "text", 1.0, 0.1, True]
    codes: np.ndarray[Any, Any] = own.inputs({name: values})["categorical"]
    return [
        {"column": name, "value": value, "codes": pair}
        for value, pair in zip(values, codes[:, 0].tolist(), strict=True)
    ]


def _answers(job: Job, columns: Sequence[str]) -> dict[str, Any]:
    kind, classes = job.learner.objective, job.features.classes
    if kind in ("multiclass", "multilabel"):
        prefix = "probability."
        classes = [name.removeprefix(prefix) for name in columns if name.startswith(prefix)]
    return {
        "of": kind,
        "output": OUTPUTS[kind],
        "classes": classes,
        "named": "class" in columns,
        "columns": list(columns),
    }
