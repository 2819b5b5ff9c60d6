"""`incr tune`: trials on Ray Tune, the best job, and a search that continues after it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core import Job, run
from incr_core.commands.cli import main
from incr_core.errors import ArgumentError, JobError, RunDirectoryError
from incr_core.runs import tune

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

JOB = """
name = "people"
stream = { path = "rows.parquet", every = 100 }
features = { label = "y", numeric = ["a", "b"], classes = [0, 1] }
model = { hidden = [8] }
learner = { objective = "binary", batch_size = 32, optimizer = { name = "adam", lr = 1e-6 } }
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job whose learning rate is too low by far, over rows that a line separates."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(1200, 2))
    rows = {"a": x[:, 0], "b": x[:, 1], "y": (x[:, 0] > x[:, 1]).astype(int)}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    return path


def test_the_best_trial_is_a_job_that_runs_to_its_metric(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = job.parent / "search"
    space = ["learner.optimizer.lr=1e-3|1e-2|1e30"]
    command = ["tune", str(job), *space, "--trials", "9", "--rows", "900", "--out", str(out)]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    trials = {tuple(one["settings"]): one for one in found["trials"]}
    assert set(trials) == {(), *((f"learner.optimizer.lr={rate}",) for rate in ("1e-3", "1e-2", "1e30"))}
    assert not (out / "trials").exists(), "the trials' runs are kept only on demand"
    best = next(one for one in found["trials"] if one["number"] == found["best"])
    assert best["rows"] == 900
    assert best["settings"] == ["learner.optimizer.lr=1e-2"]
    assert best["value"] > 0.8
    assert trials["learner.optimizer.lr=1e30",]["fault"], "a trial that diverges is named, and the others go on"

    assert main(command) == 0, "the same call reads what was found"
    said = capsys.readouterr().out
    assert f"trial {found['best']}, auc {best['value']:.4f}" in said
    moved = job.parent / "elsewhere" / "best.toml"
    moved.parent.mkdir()
    moved.write_text((out / "best.toml").read_text())
    # The whole stream, of which the trial has learned the first 900 rows.
    whole = run(Job.read(moved), job.parent / "run").summary
    assert whole.rows_learned == 1200
    assert whole.prequential["auc"] == pytest.approx(best["value"], abs=0.05)

    with pytest.raises(RunDirectoryError, match="expected the search that began there, got another job, space or numb"):
        tune(job, space, out, trials=5, rows=900)


@pytest.mark.chaos  # it starts two Rays of its own
def test_a_killed_search_continues(job: Path) -> None:
    out = job.parent / "search"
    command = [
        sys.executable,
        "-m",
        "incr_core.commands.cli",
        "tune",
        str(job),
        "--trials",
        "4",
        "--rows",
        "900",
        "--out",
        str(out),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True) as first:
        assert first.stdout is not None
        line = first.stdout.readline()
        assert line.startswith("trial "), line
        os.killpg(first.pid, signal.SIGKILL)
    begun = time.time()
    second = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, timeout=400, check=True)
    assert "best: trial" in second.stdout
    assert len(json.loads((out / "trials.json").read_text())["trials"]) == 4
    assert (out / "best.toml").stat().st_mtime >= begun - 1


@pytest.mark.chaos  # it starts a Ray of its own
def test_ctrl_c_ends_a_search_without_a_result(job: Path) -> None:
    out = job.parent / "search"
    command = [sys.executable, "-m", "incr_core.commands.cli", "tune", str(job), "--trials", "16", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as search:
        assert search.stdout is not None
        line = search.stdout.readline()
        assert line.startswith("trial "), line
        search.send_signal(signal.SIGINT)
        said, errors = search.communicate(timeout=400)
    assert search.returncode == 130, errors
    assert "stopped" in errors
    assert "best: trial" not in said
    assert not (out / "best.toml").exists()


@pytest.mark.parametrize(
    ("space", "options", "error", "message"),
    [
        (["learner.optimiser.lr=1..2"], {}, JobError, 'learner.optimiser: unknown key; did you mean "optimizer"'),
        (["learner.batch_size=64..32"], {}, JobError, "expected A..B with A below B, got 64 and 32"),
        (["learner.batch_size=32"], {}, JobError, r"expected a range A..B or two choices X\|Y or more, got 32"),
        (["learner.batch_size=0..8"], {}, JobError, "learner.batch_size"),
        (["learner.batch_size"], {}, JobError, 'got no "="'),
        (["learner.clip=1|2", "learner.clip=3|4"], {}, JobError, "learner.clip: expected one range or list of choices"),
        (["stream.path=a|b"], {}, JobError, "stream.path: expected a key that trials can be compared by, got .* rows"),
        (["features.label=y|a"], {}, JobError, "features.label: expected a key that trials can be compared by"),
        (["federated.rounds=1|2"], {}, JobError, "federated.rounds: .* does not change what a trial learns"),
        ([], {"trials": 1}, ArgumentError, "trials: expected at least 2, got 1"),
        ([], {"rows": 0}, ArgumentError, "rows: expected at least 1, got 0"),
        ([], {"on": "federated"}, ArgumentError, "on: expected an engine that runs trials side by side, such as clust"),
    ],
)
def test_what_a_search_refuses(job: Path, space: list[str], options: dict, error: type, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(error, match=message):
        tune(job, space, job.parent / "search", **options)
    assert not (job.parent / "search").exists()
