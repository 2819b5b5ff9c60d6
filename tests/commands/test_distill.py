"""`incr distill`: a student takes over what its teacher knows, and where it stands."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from incr_core.commands.cli import main
from incr_core.commands.distill import Lesson, Taught, distill
from incr_core.errors import ArgumentError, JobError, RunDirectoryError
from incr_core.job import Job
from incr_core.loop import Progress
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import check
from incr_core.runs import Version, run
from tests.support.made_up import made_up

SMALL = ["model.hidden=[4]", "model.embedding=2"]


def taught(folder: Path, label: str = "tall", objective: str = "binary", files: int = 5, **learner: Any) -> Path:
    """A run on the first files of a folder."""
    (folder / "rows").mkdir()
    for number in range(files):
        pq.write_table(made_up(400, seed=number), folder / f"rows/{number}.parquet")
    document = {
        "stream": {"path": str(folder / "rows"), "every": 200},
        "features": {"label": label, "numeric": ["height", "weight"], "categorical": ["colour"]},
        "model": {"hidden": [64, 64]},
        "learner": {"objective": objective, "epochs": 3, "batch_size": 16, **learner},
        "strategy": [{"name": "replay", "capacity": 500}],
        "publish": {"every": 3},
        "baselines": {"frozen": ["learner.frozen=true"]},
    }
    run(Job.from_document(document).resolved().with_settings(["baselines={}"]), folder / "teacher")
    return folder / "teacher"


def ledger_rows(folder: Path) -> list[tuple[str, int]]:
    entries = pq.read_table(folder / "ledger").to_pylist()
    return sorted(
        (entry["fragment"], row)
        for entry in entries
        for part in entry["ranges"]
        for row in range(part["start"], part["stop"])
    )


@pytest.mark.slow
def test_the_student_stands_where_its_teacher_stands_and_goes_on(tmp_path: Path) -> None:
    teacher, student = taught(tmp_path), tmp_path / "student"
    command = ["distill", str(teacher), "--out", str(student)]
    assert main([*command, *(word for setting in SMALL for word in ("--student", setting))]) == 0
    assert ledger_rows(student) == ledger_rows(teacher)
    assert len(ledger_rows(student)) == 2000
    summary = json.loads((student / "summary.json").read_text())
    assert summary["taught_by"]["version"] == RunDirectory.open(teacher).champion()
    small, large = Version.load(student), Version.load(teacher)
    count = [sum(weight.numel() for weight in one.learner.model.parameters()) for one in (small, large)]
    assert count[0] < count[1] / 3
    everything = tmp_path / "all.parquet"
    pq.write_table(made_up(1000, seed=99), everything)
    assert small.evaluate(everything)["auc"] > 0.93
    # New rows come: it learns them, and them only, without its teacher.
    before = summary["model_sha256"]
    pq.write_table(made_up(400, seed=5), tmp_path / "rows/5.parquet")
    assert main(["run", str(student / "job.toml"), "--out", str(student), "--quiet"]) == 0
    after = json.loads((student / "summary.json").read_text())
    assert after["rows_learned"] == 2400
    assert after["model_sha256"] != before
    assert len(ledger_rows(student)) == len(set(ledger_rows(student))) == 2400
    check(pq.read_table(student / "ledger"))


@pytest.mark.slow
@pytest.mark.parametrize(("label", "objective"), [("tall", "binary"), ("size", "multiclass"), ("score", "regression")])
def test_a_taught_student_agrees_with_its_teacher_more_than_one_that_is_not(
    tmp_path: Path, label: str, objective: str
) -> None:
    teacher = taught(tmp_path, label, objective, files=2, epochs=2)
    settings = [*SMALL, "learner.epochs=6", "learner.optimizer.lr=0.01"]
    distill(teacher, tmp_path / "with", settings, strength=20.0)
    distill(teacher, tmp_path / "without", settings, strength=0.0)
    pq.write_table(made_up(500, seed=99), tmp_path / "new.parquet")

    def said(folder: Path) -> np.ndarray[Any, Any]:
        found = Version.load(folder).predict(tmp_path / "new.parquet")
        names = [name for name in found.column_names if name.startswith(("probability", "value"))]
        return np.stack([found[name].to_numpy() for name in names])

    apart = [np.abs(said(tmp_path / name) - said(teacher)).mean() for name in ("with", "without")]
    assert apart[0] < 0.9 * apart[1]


@pytest.mark.slow
def test_without_strength_it_is_a_plain_run_bit_for_bit(tmp_path: Path) -> None:
    teacher = taught(tmp_path, files=2)
    alone = distill(teacher, tmp_path / "student", SMALL, strength=0.0)
    job = Job.from_document(RunDirectory.open(teacher).job()).with_settings(SMALL)
    assert alone.model_sha256 == run(job, tmp_path / "plain").summary.model_sha256


@pytest.mark.slow
def test_it_stops_where_the_champion_stands(tmp_path: Path) -> None:
    teacher = taught(tmp_path)
    RunDirectory.open(teacher).promote(1)
    distill(teacher, tmp_path / "student", SMALL)
    assert len(ledger_rows(tmp_path / "student")) == 600  # three increments, of the ten the run has seen
    # The rest of the stream is still to come.
    summary = run(Job.read(tmp_path / "student/job.toml"), tmp_path / "student").summary
    assert summary.rows_learned == 2000


@pytest.mark.slow
@pytest.mark.parametrize("label", ["tall", "size", "score"])
def test_experts_teach_one_network_what_their_mix_answers(tmp_path: Path, label: str) -> None:
    table, objective = made_up(400), {"tall": "binary", "size": "multiclass", "score": "regression"}[label]
    pq.write_table(table, tmp_path / "rows.parquet")
    document = {
        "stream": {"path": str(tmp_path / "rows.parquet"), "every": 100},
        "features": {"label": label, "numeric": ["height", "weight"]},
        "model": {"kind": "auto", "hidden": [8]},
        "learner": {"objective": objective},
    }
    teacher = run(Job.from_document(document).resolved(), tmp_path / "teacher")
    mine = ['model.kind="mlp"', "model.hidden=[8]", "learner.epochs=20"]
    taught = [Version.load(tmp_path / name) for name in told(teacher.path, tmp_path, mine)]
    answers = [one.predict(table).select([-1]).to_pandas().to_numpy() for one in [teacher.champion, *taught]]
    apart = [np.abs(answer - answers[0]).mean() for answer in answers[1:]]
    assert apart[1] < apart[0], "a student that listens is closer to its teacher than one that does not"


def told(teacher: Path, folder: Path, settings: list[str]) -> list[str]:
    for name, strength in (("alone", 0.0), ("taught", 20.0)):
        distill(teacher, folder / name, settings, strength=strength)
    return ["alone", "taught"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.kind=auto"], "student: expected a model of one network"),
        (["learner.head=ridge", "learner.epochs=1"], "student: expected a model that learns by steps"),
    ],
)
def test_a_student_that_cannot_be_taught_is_refused(tmp_path: Path, settings: list[str], message: str) -> None:
    teacher = taught(tmp_path, files=1)
    with pytest.raises(ArgumentError, match=message):
        distill(teacher, tmp_path / "student", settings)
    assert not (tmp_path / "student").exists()


@pytest.mark.slow
def test_an_interrupted_lesson_goes_on_with_its_first_teacher(tmp_path: Path) -> None:
    teacher = taught(tmp_path)
    whole = distill(teacher, tmp_path / "whole", SMALL)
    seen: list[Progress] = []

    def stopped(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 4:
            signal.raise_signal(signal.SIGTERM)

    assert not distill(teacher, tmp_path / "parts", SMALL, on_progress=stopped).finished
    assert len(seen) == 4
    RunDirectory.open(teacher).promote(1)  # the champion changes in between
    again = distill(teacher, tmp_path / "parts", SMALL)
    assert again.taught_by is not None
    assert (again.model_sha256, again.taught_by["version"]) == (whole.model_sha256, 4)


def test_a_lesson_leaves_no_trace_in_the_state() -> None:
    assert Taught(None, 1.0, 2.0).state_dict() == {}  # type: ignore[arg-type]
    assert Lesson.name == "local"


def test_wrong_folders_are_told(tmp_path: Path) -> None:
    teacher = taught(tmp_path, files=1)
    with pytest.raises(ArgumentError, match=r"expected another folder than the teacher's own run"):
        distill(teacher, teacher)
    with pytest.raises(RunDirectoryError, match="expected a run directory, found none"):
        distill(tmp_path / "nowhere", tmp_path / "student")
    with pytest.raises(JobError, match=r'model.hiden: unknown key; did you mean "hidden"'):
        distill(teacher, tmp_path / "student", ["model.hiden=[4]"])
