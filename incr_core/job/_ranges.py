"""Typical rows for the normalisation of inputs, derived from `features.ranges`."""

from __future__ import annotations

import math

import torch

from incr_core.batch import Batch
from incr_core.data.encoding import Encoder
from incr_core.errors import JobError
from incr_core.job._file import JobFile

__all__ = ["typical_rows"]


def typical_rows(job: JobFile, encoder: Encoder) -> Batch | None:
    """Two rows with the mean and variance of uniform numbers in `features.ranges`; None if the job has no ranges.

        (low + high) / 2  -+  (high - low) / (2 sqrt 3)

    So inputs, and a number to predict, are normalised without reading any row.
    """
    ranges, columns = job.features.ranges, list(encoder.places)
    if not ranges:
        return None
    if job.learner.objective == "regression":
        columns += encoder.labels
    missing, strange = [name for name in columns if name not in ranges], ranges.keys() - {*columns}
    if missing or strange:
        got = f"none of {', '.join(missing)}" if missing else f"one of {', '.join(sorted(strange))}"
        raise JobError(f"features.ranges: expected a range of every numeric column and of no other, got {got}")
    for given, key in ((job.features.rate, "rate"), (job.features.capacity, "capacity")):
        if given:
            raise JobError(
                f"features.ranges: expected a job without features.{key}, of which nobody can tell beforehand what it "
                "will be; leave out one of the two"
            )
    batch = encoder.empty().map(lambda value: torch.zeros(2, *value.shape[1:], dtype=value.dtype))
    numeric = batch.inputs["numeric"] if isinstance(batch.inputs, dict) else batch.inputs
    for name, places in encoder.places.items():
        numeric[:, places.start : places.stop] = _pair(*ranges[name]).to(numeric.dtype)[:, None]
    if job.learner.objective == "regression":
        batch.targets[:] = _pair(*ranges[encoder.labels[0]]).to(batch.targets.dtype)
    return batch


def _pair(low: float, high: float) -> torch.Tensor:
    half = (high - low) / (2 * math.sqrt(3))
    return torch.tensor([(low + high) / 2 - half, (low + high) / 2 + half], dtype=torch.float64)
