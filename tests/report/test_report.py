"""The report is one page that stands alone, whatever the run looks like."""

from __future__ import annotations

import datetime
import json
import re
import xml.dom.minidom
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from incr_core.registry import RunDirectory
from incr_core.registry.ledger import SCHEMA
from incr_core.report import write_report
from incr_core.report._course import days, rolling

pytestmark = pytest.mark.slow


def metrics(n: int, name: str = "date", level: float = 0.75) -> pa.Table:
    rng = np.random.default_rng(0)
    auc = np.where(np.arange(n) < n // 10, np.nan, level + 0.02 * rng.standard_normal(n))
    day = datetime.date(2013, 1, 1)
    return pa.table(
        {
            "increment": np.arange(n),
            "name": [str(day + datetime.timedelta(i % 300)) if name == "date" else f"part {i}" for i in range(n)],
            "warm": np.arange(n) < n // 10,
            "rows_arriving": np.full(n, 900),
            "rows_labelled": np.full(n, 900),
            "rows_scored": np.full(n, 900),
            "metric.auc": auc,
            "total.auc": np.full(n, level),
            "loss.objective": pa.array([None] + [0.5] * (n - 1), pa.float64()),
            "loss.<replay>": np.full(n, 0.4),
            "seconds_predicting": np.full(n, 0.01),
            "seconds_learning": np.full(n, 0.05),
            "seconds_exchanging": np.zeros(n),
            "bytes_exchanged": np.zeros(n, np.int64),
            "version": np.ones(n, np.int64),
        }
    )


SUMMARY = {
    "engine": "local",
    "increments": 3,
    "rows_learned": 9876,
    "rows_predicted": 9000,
    "rows_quarantined": 4,
    "rows_per_second": 17234.5,
    "prequential": {"log_loss": 0.43, "auc": 0.7512},
    "main_metric": "auc",
    "bytes_exchanged": 1234567,
    "wall_seconds": 12.3,
    "model_sha256": "ab" * 32,
    "version": 1,
    "seed": 5,
}


def report(folder: Path, table: pa.Table, summary: dict[str, Any] | None = None, **options: Any) -> str:
    with RunDirectory.create(folder, 'name = "flights <b>&"', "f00d") as run:
        run.commit(
            {"w": torch.zeros(2)}, manifest={"name": "2013-<i>"}, metrics=table, ledger=SCHEMA.empty_table(), **options
        )
        if summary is not None:
            (folder / "summary.json").write_text(json.dumps(summary))
        return write_report(run).read_text()


def drawings(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, re.DOTALL)


@pytest.mark.parametrize(("n", "name"), [(1, "date"), (2, "other"), (300, "date"), (10_000, "other")])
def test_any_length_of_run_makes_a_small_page_that_stands_alone(tmp_path: Path, n: int, name: str) -> None:
    page = report(tmp_path, metrics(n, name), SUMMARY)
    assert len(drawings(page)) == 6, "each plot for a wide and for a narrow screen"
    for drawing in drawings(page):
        xml.dom.minidom.parseString(drawing)
    for line in re.findall(r'<path d="([^"]*)" clip-path', page):
        assert line.count("\n") < 1500, "thinned to what a screen can show"
    assert not re.search(r"<script|<link|<img|@import|(href|src)=\"(?!#)|url\((?!#)", page)
    assert ("increment</text>" in page) == (name == "other")


def test_every_drawing_has_names_of_its_own(tmp_path: Path) -> None:
    """Of two definitions by one name the first counts, which may be hidden. A line of two points has marks."""
    page = report(tmp_path, metrics(2, "other"), SUMMARY)
    named = [set(re.findall(r'<(?:clipPath|path) id="(\w+)"', one)) for one in drawings(page)]
    assert any(name.startswith("m") for names in named for name in names)
    assert sum(map(len, named)) == len(set().union(*named))


def test_the_headline_holds_the_runs_numbers_main_metric_first(tmp_path: Path) -> None:
    page = report(tmp_path, metrics(3), SUMMARY)
    cards = re.findall(r"<b>(.*?)</b><span>(.*?)</span><small>(.*?)</small>", page)
    assert cards == [
        ("0.7512", "AUC", "prequential"),
        ("0.4300", "log loss", "prequential"),
        ("17,234", "rows per second", "12.3 s in all"),
        ("9,876", "rows learned", "9,000 predicted"),
        ("4", "quarantined", "0.04% of rows"),
        ("1.23 MB", "exchanged", "between workers"),
        ("1", "model version", "sha256 abababababab"),
    ]
    assert "local engine · 3 increments · seed 5" in page


def test_all_text_is_escaped(tmp_path: Path) -> None:
    bad = pa.table({"reason": ["<script>alert(1)</script>", "label & more", "label & more"]})
    baseline = tmp_path / "baselines" / "<u>no $re$play"
    RunDirectory.create(tmp_path, "", "f00d").close()
    with RunDirectory.create(baseline, "", "f00d") as run:
        run.commit({}, manifest={}, metrics=metrics(30, level=0.6), ledger=SCHEMA.empty_table())
    page = report(tmp_path, metrics(30), SUMMARY, quarantine=bad)
    for raw in ("<script", "<u>", "<i>", "<replay>", "label & more"):
        assert raw not in page
    assert "&lt;u&gt;no $re$play 0.600</text>" in page
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td><td class=n>1</td>" in page
    # The most frequent reason comes first.
    assert page.index("label &amp; more") < page.index("alert(1)")


def test_the_champion_is_marked(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "", "f00d") as run:
        for n in range(20):
            run.commit({"w": torch.zeros(n)}, manifest={}, metrics=metrics(1), ledger=SCHEMA.empty_table())
        run.promote(2)
        page = write_report(run).read_text()
    assert re.findall(r"<b>(\d+)</b> <em class=\"champion\">", page) == ["2"]
    assert "4 earlier ones are in the folder manifests" in page


def test_a_run_without_anything_yet_has_a_page(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "empty", "", "f00d") as run:
        page = write_report(run).read_text()
    assert "<h1>empty</h1>" in page
    assert "still running, or stopped before its end" in page
    assert not drawings(page)


def test_missing_columns_and_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    page = report(
        tmp_path, metrics(5).select(["increment", "version"]), {"prequential": {"auc": None}, "engine": "local"}
    )
    assert not drawings(page)
    assert "AUC</span>" not in page


def test_the_recent_metric_is_the_mean_over_the_windows_rows() -> None:
    values = np.array([np.nan, 1.0, 0.0, 1.0, np.nan, np.nan])
    rows = np.array([5.0, 1.0, 3.0, 0.0, 2.0, 2.0])
    assert rolling(values, rows, 2).tolist() == pytest.approx([np.nan, 1.0, 0.25, 0.0, np.nan, np.nan], nan_ok=True)
    assert rolling(values, rows, 1).tolist() == pytest.approx([np.nan, 1.0, 0.0, np.nan, np.nan, np.nan], nan_ok=True)


@pytest.mark.parametrize(
    ("names", "dated"),
    [
        (["2013-01-01", "2013-01-02"], True),
        (["2013-01-01T05", "2013-01-01 06:00"], True),
        (["2013-01-01T05:00:00+00:00", "2013-01-01T06:00:00Z"], True),
        (["2013-01-02", "2013-01-01"], False),
        (["20130101", "20130102"], False),
        (["2013-01-01", "rest"], False),
        (["part-1"], False),
        ([None], False),
        ([], False),
    ],
)
def test_times_are_told_from_other_names(names: list[Any], dated: bool) -> None:
    assert (days(names) is not None) == dated


def of_clients(increments: int, clients: int) -> pa.Table:
    """Client k does k thousandths better than the worst."""
    number, client = np.divmod(np.arange(increments * clients), clients)
    value = 0.6 + client / 1000
    return pa.table(
        {
            "increment": number,
            "client": [f"<client> {one}" for one in client],
            "rows_labelled": np.full(len(number), 5),
            "rows_scored": np.full(len(number), 5),
            "metric.auc": value,
            "total.auc": value,
            "offered": np.full(len(number), 5),
            "rounds": np.ones(len(number)),
            "of_rounds": np.ones(len(number)),
            "weight": np.full(len(number), 1 / clients),
            "norm": value,
            "drift": value / 2,
            "failures": (client == 2).astype(np.int64),
            "failure": ["no <answer>" if one == 2 else "" for one in client],
        }
    )


@pytest.mark.parametrize(("count", "plots"), [(1, 1), (16, 12), (1000, 12)])
def test_clients_have_plots_of_their_own_the_worst_first(tmp_path: Path, count: int, plots: int) -> None:
    page = report(tmp_path, metrics(30), SUMMARY, clients=of_clients(30, count))
    assert f"<h2>{count:,} client" in page
    multiples = next(one for one in drawings(page) if "of each client" in one)
    xml.dom.minidom.parseString(multiples)
    titles = re.findall(r"&lt;client&gt; (\d+)  0\.6", multiples)
    assert titles == [str(place) for place in range(plots)]
    rows = re.findall(r"<tr><td>&lt;client&gt; (\d+)</td>", page)
    assert rows == [str(place) for place in range(min(count, 30))]
    if count > 2:
        assert ">30 <small>no &lt;answer&gt;</small>" in page
    assert len(page) < 500_000
