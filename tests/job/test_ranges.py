"""Inputs that are normalised by what a job says of them, without a look at rows."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
import torch

from incr_core.errors import JobError
from incr_core.job import Job


def job(objective: str = "regression", **features: Any) -> Job:
    table = {"label": "y", "numeric": ["a", "pixels"], "categorical": ["c"], "widths": {"pixels": 2}, **features}
    return Job.from_document({"stream": {"path": "x.csv"}, "features": table, "learner": {"objective": objective}})


def test_what_is_told_of_rows_is_told_of_the_ranges_instead() -> None:
    ranges = {"a": [10, 20], "pixels": [0, 255], "y": [-1, 3]}
    with_ranges = job(ranges=ranges)
    learner = with_ranges.learner_for(with_ranges.numeric_width)
    table = pa.table({"a": [1e9] * 3, "pixels": [[7.0, 8.0]] * 3, "c": ["x"] * 3, "y": [1e9] * 3})
    rows = with_ranges.encoder.encode(table, torch.arange(3), "x.csv").batch
    told = learner.observe(rows)
    learner.absorb(told)
    learner.absorb(told)
    mean, std = learner.model.moments.scale()  # type: ignore[union-attr, operator]
    assert mean.tolist() == pytest.approx([15, 127.5, 127.5])
    assert std.tolist() == pytest.approx([10 / math.sqrt(12), *[255 / math.sqrt(12)] * 2])
    assert float(told["model.moments.sums"][0, 0]) == 3.0
    mean, std = learner.objective.target.scale()  # type: ignore[union-attr, operator]
    assert (float(mean), float(std)) == pytest.approx((1.0, 4 / math.sqrt(12)))
    assert "model.moments.sums" in job().learner_for(3).observe(rows)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"ranges": {"a": [0, 1]}}, "features.ranges: expected a range of every numeric column.*none of pixels, y"),
        ({"ranges": {"a": [0, 1], "pixels": [0, 1], "y": [0, 1], "c": [0, 1]}}, "got one of c"),
        ({"ranges": {"a": [1, 1]}}, r"features\.ranges: expected the least and the greatest number of a, got \[1, 1\]"),
        ({"ranges": {"a": [0, float("inf")]}}, "got .0, inf"),
    ],
)
def test_ranges_that_cannot_be_are_refused(features: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said):
        job(**features).learner_for(3)


def test_ranges_are_refused_beside_what_nobody_can_tell_beforehand() -> None:
    ranges = {"a": [0, 1], "pixels": [0, 1]}
    with pytest.raises(JobError, match=r"features\.ranges: expected a job without features\.capacity"):
        job("multiclass", ranges=ranges, capacity=5).learner_for(3)
