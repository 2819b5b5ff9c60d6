"""The report of a real run: what was run, each class, curves, trivial predictions, tasks, and a page for phones."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.commands.cli import main
from incr_core.report import TaskMatrix
from incr_core.report._course import Course
from incr_core.runs import Run, open_run

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")


def rows(n: int, seed: int = 0) -> pa.Table:
    """Three classes of which the last is rare, and a task that changes halfway."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    kind = np.where(x[:, 0] > 1.6, "rare", np.where(x[:, 1] > 0.3, "often", "mostly"))
    return pa.table({"a": x[:, 0], "b": x[:, 1], "task": np.arange(n) * 2 // n, "kind": kind, "size": 10 + 5 * x[:, 0]})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("evidence")
    pq.write_table(rows(600), folder / "rows.parquet")
    (folder / "job.toml").write_text(
        'name = "kinds"\n[stream]\npath = "rows.parquet"\nevery = 60\n'
        '[features]\nlabel = "kind"\nnumeric = ["a", "b"]\ntask = "task"\nclasses = ["mostly", "often", "rare"]\n'
        '[model]\nhidden = [8]\n[learner]\nobjective = "multiclass"\n[[strategy]]\nname = "replay"\ncapacity = 50\n'
    )
    assert main(["run", str(folder / "job.toml"), "--out", str(folder / "run"), "--quiet"]) == 0
    return Run(folder / "run")


def text(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_it_says_what_was_run(run: Run) -> None:
    said = text(run.report.read_text())
    for expected in (
        "job kinds",
        "rows.parquet increments 60 rows each",
        "sizes 10 increments, 600 rows predicted, 600 learned",
        "model MLP, hidden layers [8]",
        "adam (lr 0.003), batches of 32, 1 pass over each increment",
        "strategies replay (capacity 50)",
        "label kind (multiclass, 3 classes: mostly, often, rare)",
        "numbers a, b",
    ):
        assert expected in said
    assert re.search(r"weights \d+ numbers in \d+ tensors", said)


def test_its_confusion_matrix_and_classes_are_those_of_the_predictions(run: Run) -> None:
    page = run.report.read_text()
    matrix = page[page.index("Confusion matrix") :]
    counts = [int(number.replace(",", "")) for number in re.findall(r'rgba\([^"]*">([\d,]+)</td>', matrix)]
    confusion = np.array(counts).reshape(3, 3)
    kinds = rows(600)["kind"].to_pylist()
    assert confusion.sum(1).tolist() == [kinds.count(name) for name in ("mostly", "often", "rare")]
    assert np.diag(confusion).sum() / 600 == pytest.approx(run.summary.prequential["accuracy"])
    assert 'aria-label="ROC curve"' in page
    assert 'aria-label="Reliability diagram"' in page
    assert 'aria-label="Precision and recall"' in page


def test_a_majority_and_the_last_value_are_lines_beside_the_metric(run: Run) -> None:
    table = run.table("metrics")
    kinds = np.array(rows(600)["kind"].to_pylist())
    expected, right = [], 0
    for start in range(60, 600, 60):
        known = kinds[:start]
        common = max(("mostly", "often", "rare"), key=lambda name: (known == name).sum())
        expected.append((kinds[start : start + 60] == common).mean())
        right += (kinds[start : start + 60] == common).sum()
    assert table["trivial.majority.accuracy"].to_pylist()[1:] == pytest.approx(expected)
    assert table["trivial_total.majority.accuracy"][-1].as_py() == pytest.approx(right / 540)
    last = [(kinds[start : start + 60] == kinds[start - 1]).mean() for start in range(60, 600, 60)]
    assert table["trivial.last value.accuracy"].to_pylist()[1:] == pytest.approx(last)
    page = run.report.read_text()
    assert f"majority {right / 540:.3f}" in page
    assert "last value" in page


def test_a_regression_stands_beside_the_running_mean(tmp_path: Path) -> None:
    table = rows(300)
    run = open_run(tmp_path, stream=table, label="size", numeric=["b"], objective="regression", every=50).run()
    y = table["size"].to_numpy()
    expected = [np.abs(y[start : start + 50] - y[:start].mean()).mean() for start in range(50, 300, 50)]
    assert run.table("metrics")["trivial.mean.mae"].to_pylist()[1:] == pytest.approx(expected)
    assert f"mean {np.mean(expected):.3f}" in run.report.read_text()


def test_a_ranking_stands_beside_popularity() -> None:
    columns = {"metric.ndcg@10": [0.2, 0.4], "total.ndcg@10": [0.2, 0.3]}
    popular = {"metric.popularity ndcg@10": [0.1, 0.2], "total.popularity ndcg@10": [0.1, 0.15]}
    course = Course.of("ours", pa.table(columns | popular), {"main_metric": "ndcg@10"})
    assert {name: totals.tolist() for name, (_, totals) in course.trivial.items()} == {"popularity": [0.1, 0.15]}
    assert Course.of("ours", pa.table(columns), {"main_metric": "ndcg@10"}).trivial == {}


def test_versions_are_measured_on_each_task(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(rows(200, seed=1), tmp_path / "test.parquet")
    assert main(["report", str(run.path), "--tasks", str(tmp_path / "test.parquet")]) == 0
    said = text(run.path.joinpath("report.html").read_text())
    assert "version task 0 task 1 mean" in said
    last = Run(run.path).version(10).evaluate_tasks(tmp_path / "test.parquet")
    assert f"10 {last[0]:.4f} {last[1]:.4f}" in said
    halves = rows(200, seed=1)
    for task, half in enumerate((halves.slice(0, 100), halves.slice(100))):
        assert run.version(10).evaluate(half)["accuracy"] == pytest.approx(last[task])
    pq.write_table(rows(200).drop(["task"]), tmp_path / "none.parquet")
    assert main(["report", str(run.path), "--tasks", str(tmp_path / "none.parquet")]) == 2
    assert "--tasks: expected rows with the column task" in capsys.readouterr().err


def test_of_an_error_the_least_is_the_best() -> None:
    matrix = TaskMatrix("mae", False, [1, 2], [0, 1], np.array([[1.0, 4.0], [3.0, 2.0]]), "rows")
    assert (matrix.average, matrix.forgetting) == (2.5, 1.0)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_phone_sees_the_whole_width_and_no_word_is_broken(run: Run, tmp_path: Path) -> None:
    """At 390 pixels nothing is wider than the screen, plots are the narrow ones, and versions stand on one line."""
    assert CHROMIUM is not None
    probe = (
        "<script>const wide = document.documentElement.scrollWidth;"
        "const shown = [...document.querySelectorAll('svg')].filter(s => s.getClientRects().length);"
        "const least = Math.min(...shown.map(s => s.getBoundingClientRect().width / s.viewBox.baseVal.width));"
        "const cells = [...document.querySelectorAll('td')].filter(c => /^[0-9a-f]{12}$/.test(c.innerText));"
        "const lines = Math.max(...cells.map(c => c.getBoundingClientRect().height));"
        "document.title = [wide, least.toFixed(2), Math.round(lines)].join(' ')</script>"
    )
    page = tmp_path / "page.html"
    # A frame, since a window of chromium is at least 500 pixels wide.
    page.write_text(run.report.read_text().replace("</body>", probe + "</body>"))
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<iframe src="{page.name}" style="width:390px;height:844px;border:0" onload="document.title = '
        'frames[0].document.title; document.body.append(document.title)"></iframe>'
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *options, outer.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"</iframe>(\d+) ([\d.]+) (\d+)", done.stdout)
    assert found is not None, done.stdout[-500:]
    width, scale, height = int(found[1]), float(found[2]), int(found[3])
    assert width <= 390
    assert scale > 0.9, "letters of a plot are as large as they were drawn"
    assert height < 40, "a hash is on one line"


def test_it_says_what_limits_and_guards_a_run(tmp_path: Path) -> None:
    pq.write_table(rows(120), tmp_path / "rows.parquet")
    keys: dict[str, Any] = {
        "every": 60,
        "objective": "regression",
        "numeric": ["a", "b"],
        "hidden": [4],
        "slices": ["task"],
    }
    publish, limits = {"gate": True, "holdout": 0.1}, {"seconds": 500.0}
    made = open_run(
        tmp_path / "run", stream=tmp_path / "rows.parquet", label="size", publish=publish, limits=limits, **keys
    ).run()
    said = text(made.report.read_text())
    for expected in (
        "gate margin 0.03, patience 14 versions",
        "holdout 0.1 of an increment",
        "limits 500 seconds per increment",
        "slices task",
    ):
        assert expected in said
