"""A class first met in a file that comes later: a bad row of the same run, with what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.commands.cli import main
from incr_core.errors import BadRows, RunDirectoryError
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import count
from incr_core.runs import run

pytestmark = pytest.mark.slow

JOB = """
[stream]
path = "data"

[features]
label = "kind"

[model]
hidden = [4]

[learner]
objective = "{objective}"
"""


class Runs:
    """A job whose classes are found in its data, and its command line."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        (folder / "data").mkdir()

    def write(self, name: str, labels: list[Any]) -> None:
        table = pa.table({"x": [float(row) for row in range(len(labels))], "kind": labels})
        pq.write_table(table, self.folder / "data" / f"{name}.parquet")

    def job(self, objective: str) -> Path:
        (self.folder / "job.toml").write_text(JOB.format(objective=objective))
        return self.folder / "job.toml"

    def __call__(self, *more: str, objective: str = "multiclass") -> tuple[int, str]:
        path = self.job(objective)
        code = main(["run", str(path), "--out", str(self.folder / "out"), "--quiet", *more])
        return code, self.capsys.readouterr().err

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory.open(self.folder / "out")


@pytest.fixture
def runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runs:
    return Runs(tmp_path, capsys)


@pytest.mark.parametrize(
    ("objective", "first", "later", "said"),
    [
        (
            "multiclass",
            ["a", "b", "a"],
            ["b", "c", "c"],
            'stream.features.kind: expected one of a, b, 2 of 3 rows in 2.parquet are something else ("c"); fix them '
            'or set on_bad_row = "quarantine"; for classes yet to come, begin a run with features.capacity, or with '
            "features.classes that names all",
        ),
        (
            "binary",
            ["no", "yes", "no"],
            ["yes", "maybe", "no"],
            "stream.features.kind: expected one of no, yes, 1 of 3 rows in 2.parquet are something else "
            '("maybe"); fix them or set on_bad_row = "quarantine"',
        ),
        (
            "multilabel",
            [["a"], ["b"], []],
            [["a", "c"], ["b"], ["a"]],
            "stream.features.kind: expected labels out of a, b, 1 of 3 rows in 2.parquet are others "
            "(\"['a', 'c']\"); fix them or set on_bad_row = \"quarantine\"; for labels yet to come, begin a run with "
            "features.classes that names them all",
        ),
    ],
)
def test_a_new_class_is_told_and_the_run_goes_on_without_it(
    runs: Runs, objective: str, first: list[Any], later: list[Any], said: str
) -> None:
    """As it was said to: with quarantine, which makes no other run of it."""
    runs.write("1", first)
    assert runs(objective=objective) == (0, "")
    runs.write("2", later)
    assert runs(objective=objective) == (2, f"incr: {said}\n")
    assert runs("--set", "features.on_bad_row=quarantine", objective=objective) == (0, "")
    refused = runs.directory.table("quarantine")
    bad = said.count('"c"') + 1 if objective == "multiclass" else 1
    assert refused["fragment"].unique().to_pylist() == ["2.parquet"]
    assert len(refused) == bad
    assert count(runs.directory.table("ledger")) == 6 - bad
    assert runs.directory.job()["features"]["classes"] == sorted({"no", "yes"} if objective == "binary" else {"a", "b"})


def test_it_is_the_run_that_quarantine_would_have_made_from_the_start(runs: Runs) -> None:
    """To the bit, whether the run was stopped by the row or not."""
    runs.write("1", ["a", "b", "a"])
    runs()
    runs.write("2", ["b", "c", "c", "a"])
    runs()
    runs("--set", "features.on_bad_row=quarantine")
    path = runs.job("multiclass")
    named = Job.read(path, ["features.classes=['a', 'b']", "features.on_bad_row=quarantine"])
    run(named, runs.folder / "whole")
    first, second = (RunDirectory.open(runs.folder / out).load()[0] for out in ("out", "whole"))
    assert all(first[name].equal(second[name]) for name in second)


def test_a_resolved_job_goes_on_likewise_in_python(runs: Runs) -> None:
    path, out = runs.job("multiclass"), runs.folder / "out"
    runs.write("1", ["a", "b", "a"])
    run(Job.read(path), out)
    runs.write("2", ["c"])
    job = Job.read(path)
    assert job.features.classes == ["a", "b", "c"]
    with pytest.raises(BadRows, match=r"expected one of a, b, 1 of 1 rows in 2.parquet"):
        run(job, out)


def test_classes_and_columns_stay_when_the_files_that_told_them_are_gone(runs: Runs) -> None:
    """Files of which every row is learned may be taken away: what was found in them is not lost."""
    runs.write("1", ["a", "b", "c"])
    assert runs() == (0, "")
    (runs.folder / "data" / "1.parquet").unlink()
    table = pa.table({"x": pa.array(["1", "2"]), "kind": ["a", "a"], "new": [1, 2]})
    pq.write_table(table, runs.folder / "data" / "2.parquet")
    assert runs() == (0, "")
    features = runs.directory.job()["features"]
    assert (features["classes"], features["numeric"], features["categorical"]) == (["a", "b", "c"], ["x"], [])
    assert count(runs.directory.table("ledger")) == 5


def test_a_run_that_has_committed_nothing_decides_nothing(runs: Runs) -> None:
    runs.write("1", ["a", "b", None])
    assert runs()[0] == 2  # a label is missing
    runs.write("1", ["a", "b", "c"])
    assert runs() == (0, "")
    assert runs.directory.job()["features"]["classes"] == ["a", "b", "c"]


def test_another_label_is_another_job_and_so_are_other_classes_by_name(runs: Runs) -> None:
    runs.write("1", ["a", "b"])
    runs()
    code, said = runs("--set", 'features.classes=["a", "b", "c"]')
    assert code == 2
    assert "holds the run of another job: features.classes: ['a', 'b'] there, ['a', 'b', 'c'] here; choose" in said
    with pytest.raises(RunDirectoryError, match=r"features.label: 'kind' there, 'x' here"):
        run(Job.read(runs.job("multiclass"), ["features.label=x"]), runs.folder / "out")


def test_a_run_that_a_bad_file_has_stopped_goes_on_without_it(runs: Runs) -> None:
    """A file whose column holds another kind of thing; leaving it out makes no other run of it."""
    runs.write("1", ["a", "b"])
    assert runs() == (0, "")
    spans = pa.array([1, 2], pa.duration("s"))
    pq.write_table(pa.table({"x": spans, "kind": ["a", "b"]}), runs.folder / "data" / "2.parquet")
    said = 'incr: 2.parquet: expected numbers in column "x", as in 1.parquet, got durations; write them alike\n'
    assert runs() == (2, said)
    assert runs("--set", "features.on_bad_file=quarantine") == (0, "")
    [bad] = runs.directory.table("quarantine").to_pylist()
    assert (bad["row"], bad["fragment"], f"incr: {bad['reason']}\n") == (None, "2.parquet", said)
    assert count(runs.directory.table("ledger")) == 2


def test_room_for_classes_takes_them(runs: Runs) -> None:
    """What the message says to do, done."""
    runs.write("1", [0, 1, 0])
    assert runs("--set", "features.capacity=4") == (0, "")
    runs.write("2", [2, 1])
    assert runs("--set", "features.capacity=4") == (0, "")
    assert count(runs.directory.table("ledger")) == 5
