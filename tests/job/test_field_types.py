"""Durations are checked where the job file is read, whichever key holds them."""

from __future__ import annotations

from typing import Any

import pytest

from incr_core.errors import JobError
from incr_core.job import Job


def job(place: str, value: Any) -> Job:
    document: dict[str, Any] = {
        "stream": {"path": "rows.parquet", "key": "id"},
        "features": {"label": "y"},
        "learner": {"objective": "binary"},
    }
    section, _, key = place.partition(".")
    document.setdefault(section, {})[key] = value
    return Job.from_document(document)


DURATIONS = [
    "stream.every",
    "stream.max_leap",
    "stream.settle",
    "stream.key_window",
    "review.every",
    "alerts.stale",
    "federated.round_timeout",
]


@pytest.mark.parametrize("place", DURATIONS)
@pytest.mark.parametrize("value", ["soon", "1x", "-1s", "0d"])
def test_a_key_that_takes_a_duration_takes_no_other_text(place: str, value: str) -> None:
    said = rf'^job: {place}: expected a duration such as "15m", "1h" or "1d", got \'{value}\'; change it$'
    with pytest.raises(JobError, match=said):
        job(place, value)


@pytest.mark.parametrize("place", DURATIONS)
def test_a_key_that_takes_a_duration_takes_it_as_written(place: str) -> None:
    section, _, key = place.partition(".")
    assert job(place, " 90m").document()[section][key] == " 90m"


def test_windows_of_rates_are_durations() -> None:
    with pytest.raises(JobError, match=r"features\.rate\.0\.window.*: expected a duration such as .*, got 'x'"):
        job("features.rate", [{"by": ["a"], "window": ["1h", "x"]}])


def test_what_is_no_text_is_refused_as_before() -> None:
    with pytest.raises(JobError, match=r"stream\.every: expected text or a whole number, got 1\.5"):
        job("stream.every", 1.5)
