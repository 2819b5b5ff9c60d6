"""Metrics of slices: every scored row is in one slice of each column, on every engine and after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from incr_core.commands.status import described
from incr_core.errors import JobError
from incr_core.runs import Run, Status, open_run

DAYS = 8
RARE, MISSING = "ORD", None


def days() -> list[dict[str, list[Any]]]:
    """Rows whose label follows x, but at LGA follows z; one origin is rare, and some are unknown."""
    draw, found = np.random.default_rng(3), []
    for _ in range(DAYS):
        origin = draw.choice(["JFK", "EWR", "LGA"], 150)
        x, z = draw.normal(size=(2, 150))
        late = (np.where(origin == "LGA", z, x) + 0.3 * draw.normal(size=150) > 0).astype(int)
        named = [*origin.tolist()[:-4], RARE, MISSING, MISSING, MISSING]
        found.append({"x": x.tolist(), "z": z.tolist(), "origin": named, "late": late.tolist()})
    return found


def learned(out: Path, rows: list[dict[str, list[Any]]], **keys: Any) -> Run:
    wanted: dict[str, Any] = {"numeric": ["x", "z"], "classes": [0, 1], "slices": ["origin"]} | keys
    return open_run(out, stream=rows, label="late", **wanted).run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    values = {"slice_values": {"origin": ["JFK", "EWR", "LGA"]}}
    return learned(tmp_path_factory.mktemp("slices") / "run", days(), **values)


def test_every_scored_row_is_in_one_slice(whole: Run) -> None:
    slices, summary = whole.summary.slices, whole.summary
    assert slices is not None
    assert list(slices) == ["origin=JFK", "origin=EWR", "origin=LGA", "origin: others", "origin: null"]
    assert slices["origin: others"]["rows"] == DAYS
    assert slices["origin: null"]["rows"] == 3 * DAYS
    assert sum(one["rows"] for one in slices.values()) == summary.rows_predicted
    for metric in ("accuracy", "brier", "log_loss"):  # means over rows
        mean = sum(one["rows"] * one[metric] for one in slices.values()) / summary.rows_predicted
        assert mean == pytest.approx(summary.prequential[metric], abs=1e-12)


def test_the_table_of_metrics_has_each_increment_and_what_is_summed(whole: Run) -> None:
    table = whole.table("metrics")
    slices = whole.summary.slices
    assert slices is not None
    for name, one in slices.items():
        rows = table[f"slice_rows.{name}"].to_pylist()
        assert sum(rows) == one["rows"] == table[f"slice_total_rows.{name}"][-1].as_py()
        assert table[f"slice_total.auc.{name}"][-1].as_py() == one["auc"]
    assert len(set(table["slice.auc.origin=LGA"].to_pylist())) == DAYS


def test_the_worst_slice_is_named_first(whole: Run) -> None:
    status = Status.of(whole.path)
    assert status.slices[0]["slice"] == "origin=LGA"
    assert status.slices[0]["gap"] == pytest.approx(status.metrics["auc"] - status.slices[0]["value"])
    assert {one["slice"] for one in status.slices[3:]} == {"origin: null", "origin: others"}, "of fewer than 30 rows"
    assert "slices, the worst first (5 in all):\n    origin=LGA: auc 0." in described(status)
    page = whole.report.read_text()
    assert "<h2>Slices</h2>" in page
    assert page.index("origin=LGA") < page.index("origin=JFK")


def test_slices_change_no_bit_of_what_is_learned(whole: Run, tmp_path: Path) -> None:
    without = learned(tmp_path / "run", days(), slices=[])
    assert without.summary.slices is None
    assert without.summary.model_sha256 == whole.summary.model_sha256
    assert not [name for name in without.table("metrics").column_names if name.startswith("slice")]


def test_a_run_that_goes_on_has_the_slices_of_one_that_was_never_stopped(whole: Run, tmp_path: Path) -> None:
    values = {"slice_values": {"origin": ["JFK", "EWR", "LGA"]}}
    learned(tmp_path / "run", days()[:3], **values)
    assert learned(tmp_path / "run", days(), **values).summary.slices == whole.summary.slices


@pytest.mark.slow
def test_values_that_the_job_does_not_name_are_the_frequent_ones_of_the_first_rows(tmp_path: Path) -> None:
    rows = days()[:2]
    run = learned(tmp_path / "run", rows)
    names = rows[0]["origin"]
    frequent = sorted({name for name in names if name}, key=lambda name: (-names.count(name), name))
    assert run.job.features.slice_values == {"origin": frequent}
    assert run.summary.slices is not None
    assert "origin: others" not in run.summary.slices
    rows[1]["origin"] = ["SFO"] * 150  # what comes later changes none of them
    again = learned(tmp_path / "other", rows[:1])
    assert learned(tmp_path / "other", rows).summary.slices["origin: others"]["rows"] == 150  # type: ignore[index]
    assert again.job.features.slice_values == {"origin": frequent}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"slices": ["late"]}, "features.slices: expected columns other than the label, got late"),
        ({"slices": ["origin", "origin"]}, "features.slices: expected every column once, got origin twice"),
        (
            {"slice_values": {"carrier": ["AA"]}},
            "features.slice_values: expected values of the columns in features.slices, got those of carrier",
        ),
        ({"slice_values": {"origin": [f"A{number}" for number in range(101)]}}, "at most 100 of them"),
        ({"slice_values": {"origin": []}}, "at least 1 of them"),
    ],
)
def test_what_cannot_be_is_refused_by_name(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=message):
        learned(tmp_path / "run", days()[:1], **keys)


def test_a_column_without_values_is_refused_by_name(tmp_path: Path) -> None:
    rows = days()[:1]
    rows[0]["origin"] = [None] * 150
    with pytest.raises(JobError, match="expected a column with values among the first rows, got none in origin"):
        learned(tmp_path / "run", rows)


def test_rows_to_predict_need_no_slice(whole: Run) -> None:
    answers = whole.champion.predict({"x": [0.0, 1.0], "z": [0.0, 0.0]})
    assert answers.num_rows == 2


def test_a_regression_has_slices_too(tmp_path: Path) -> None:
    rows = days()
    for day in rows:
        day["late"] = [10 * x for x in day["x"]]
    run = learned(tmp_path / "run", rows, objective="regression", classes=None)
    worst = Status.of(run.path).slices[0]
    assert worst["metric"] == "mae"
    assert worst["gap"] >= 0
    assert worst["value"] == pytest.approx(Status.of(run.path).metrics["mae"] + worst["gap"])
