"""Bad input, through the command line: a clear message and exit code 2, or quarantine, and nothing lost."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.commands.cli import main
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import count
from tests.support.gated import fed_job
from tests.support.made_up import made_up
from tests.support.processes import begin, wait_until

pytestmark = pytest.mark.slow

JOB = """
[stream]
path = "data"
every = 200
settle = "0s"
predict_at = "at"

[features]
label = "{label}"
numeric = ["height", "weight"]
categorical = ["colour"]
{features}

[model]
hidden = [8]

[learner]
objective = "{objective}"
batch_size = 50
"""


class Run:
    """A folder of two files of 500 rows, a job on it, and the command line."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.data = folder / "data"
        self.data.mkdir()
        table = made_up(1000)
        self.write("a.parquet", table.slice(0, 500))
        self.write("b.parquet", table.slice(500))
        self.job()

    def job(self, label: str = "tall", objective: str = "binary", features: str = "") -> None:
        text = JOB.format(label=label, objective=objective, features=features)
        (self.folder / "job.toml").write_text(text)

    def write(self, name: str, table: pa.Table) -> None:
        pq.write_table(table, self.data / name)

    def change(self, name: str, column: str, values: Any, kind: pa.DataType | None = None) -> None:
        table = pq.read_table(self.data / name)
        at = table.column_names.index(column)
        self.write(name, table.set_column(at, column, pa.array(values, kind)))

    def column(self, name: str, column: str) -> list[Any]:
        found: list[Any] = pq.read_table(self.data / name)[column].to_pylist()
        return found

    def __call__(self, *more: str, command: str = "run", job: str = "job.toml", out: str = "out") -> tuple[int, str]:
        """Run a command; returns its exit code and what it printed."""
        directory = str(self.folder / out)
        where = [str(self.folder / job), "--out", directory] if command == "run" else [directory]
        try:
            code = main([command, *where, *more])
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        printed = self.capsys.readouterr()
        return code, printed.err + printed.out

    def rows_learned(self) -> int:
        return count(pq.read_table(self.folder / "out/ledger"))


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(tmp_path, capsys)


def missing_folder(run: Run) -> None:
    for path in run.data.iterdir():
        path.unlink()
    run.data.rmdir()


def no_files(run: Run) -> None:
    for path in run.data.iterdir():
        path.unlink()


def no_rows(run: Run) -> None:
    for name in ("a.parquet", "b.parquet"):
        run.write(name, made_up(1000).slice(0, 0))


def truncated(run: Run) -> None:
    path = run.data / "b.parquet"
    path.write_bytes(path.read_bytes()[:-1000])


def missing_column(run: Run) -> None:
    run.write("b.parquet", pq.read_table(run.data / "b.parquet").drop_columns(["weight"]))


def renamed_column(run: Run) -> None:
    table = pq.read_table(run.data / "b.parquet")
    run.write("b.parquet", table.rename_columns([{"weight": "weights"}.get(name, name) for name in table.column_names]))


def text_for_numbers(run: Run) -> None:
    run.change("b.parquet", "weight", ["heavy"] * 500)


def some_text(run: Run) -> None:
    run.change("b.parquet", "weight", ["n/a"] * 3 + [str(value) for value in run.column("b.parquet", "weight")[3:]])


def nan(run: Run) -> None:
    run.change("b.parquet", "weight", np.r_[np.nan, np.inf, run.column("b.parquet", "weight")[2:]])


def label_out_of_range(run: Run) -> None:
    run.job(features="classes = [0, 1]")
    run.change("b.parquet", "tall", [7, *run.column("b.parquet", "tall")[1:]])


def label_before_prediction(run: Run) -> None:
    text = (run.folder / "job.toml").read_text()
    (run.folder / "job.toml").write_text(text.replace('predict_at = "at"', 'predict_at = "at"\nlabel_at = "known"'))
    for name in ("a.parquet", "b.parquet"):
        table = pq.read_table(run.data / name)
        known = table["at"].to_numpy() + np.timedelta64(60, "s")
        if name == "b.parquet":
            known[5] -= np.timedelta64(120, "s")
        run.write(name, table.append_column("known", pa.array(known)))


REFUSED = [
    (missing_folder, r'stream.path: expected a file, a folder or a glob, got ".*data", where nothing is'),
    (no_files, r"stream.path: expected files of a known kind \(parquet, .*data, got none"),
    (no_rows, r"stream.path: expected rows, got none in .*data"),
    (truncated, r"b\.parquet.*(truncated|damaged|cannot be read|not a)"),
    (missing_column, r'b\.parquet: expected a column "weight"'),
    (renamed_column, r'b\.parquet: expected a column "weight".*the nearest is "weights"'),
    (text_for_numbers, r"weight.*b\.parquet"),
    (some_text, r'weight: expected float, 3 of 500 rows in b\.parquet are text \("n/a"\); fix them or set on_bad_row'),
    (nan, r"weight: expected .*rows in b\.parquet are .*(NaN|nan|inf).*on_bad_row"),
    (label_out_of_range, r"tall: expected .*1 of 500 rows in b\.parquet.*7"),
    (label_before_prediction, r"1 of 500 rows in b\.parquet"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_bad_data_is_refused_with_exit_code_2(run: Run, spoil: Callable[[Run], None], message: str) -> None:
    import re

    spoil(run)
    code, printed = run()
    assert code == 2, printed
    assert re.search(message, printed), printed
    assert printed.startswith("incr: ")
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("spoil", "rows"), [(some_text, 3), (nan, 2), (label_out_of_range, 1), (label_before_prediction, 1)]
)
def test_bad_rows_go_to_quarantine_and_others_are_learned(run: Run, spoil: Callable[[Run], None], rows: int) -> None:
    spoil(run)
    code, printed = run("--json", "--set", "features.on_bad_row=quarantine")
    assert code == 0, printed
    summary = json.loads(printed)
    assert (summary["rows_learned"], summary["rows_quarantined"]) == (1000 - rows, rows)
    quarantine = pq.read_table(run.folder / "out/quarantine")
    assert quarantine.num_rows == rows
    assert set(quarantine["fragment"].to_pylist()) == {"b.parquet"}


def test_what_was_committed_before_the_bad_file_stays_and_mending_the_file_resumes(run: Run) -> None:
    whole = json.loads(run("--json", out="whole")[1])
    sound = (run.data / "b.parquet").read_bytes()
    truncated(run)
    assert run()[0] == 2
    (run.data / "b.parquet").write_bytes(sound)
    code, printed = run("--json")
    assert code == 0, printed
    assert json.loads(printed)["model_sha256"] == whole["model_sha256"]
    assert run.rows_learned() == 1000


def test_missing_numbers_and_unseen_categories_are_learned_like_any_other(run: Run) -> None:
    run.change("b.parquet", "weight", [None, *run.column("b.parquet", "weight")[1:]])
    run.change("b.parquet", "colour", ["violet", None, *run.column("b.parquet", "colour")[2:]])
    code, printed = run("--json")
    assert code == 0, printed
    assert json.loads(printed)["rows_learned"] == 1000


def test_ticks_without_rows_are_passed_over(run: Run) -> None:
    later = pq.read_table(run.data / "b.parquet")
    run.change("b.parquet", "at", later["at"].to_numpy() + np.timedelta64(3, "D"))
    code, printed = run("--json", "--set", 'stream.every="1h"')
    assert code == 0, printed
    assert json.loads(printed)["increments"] == 9 + 9
    assert json.loads(printed)["rows_learned"] == 1000


def test_a_typo_in_the_job_is_named(run: Run) -> None:
    code, printed = run("--set", "learner.batchsize=3")
    assert (code, printed.strip()) == (
        2,
        f'incr: {run.folder}/job.toml: learner.batchsize: unknown key; did you mean "batch_size"?',
    )


def test_an_unknown_engine_and_unknown_commands_are_named(run: Run) -> None:
    code, printed = run("--on", "mars")
    assert code == 2
    assert "--on: expected an engine, got 'mars'; known: cluster, federated, local" in printed
    assert run(command="predct")[0] == 2


def test_the_directory_of_another_job_is_refused(run: Run) -> None:
    assert run()[0] == 0
    code, printed = run("--set", "learner.seed=5")
    assert code == 2
    assert "learner.seed" in printed
    assert run.rows_learned() == 1000


def test_a_folder_of_something_else_is_refused(run: Run) -> None:
    code, printed = run(out="data")
    assert code == 2
    assert "a.parquet" in printed


@pytest.mark.parametrize("command", ["promote", "predict", "evaluate"])
def test_a_version_that_does_not_exist_is_named_with_those_that_do(run: Run, command: str) -> None:
    assert run()[0] == 0
    more = ["99"] if command == "promote" else [str(run.data / "a.parquet"), "--version", "99"]
    code, printed = run(*more, command=command)
    assert code == 2
    assert "no version 99; there are versions 1 to 5" in printed


def test_a_champion_that_is_no_number_is_named_and_can_be_named_anew(run: Run) -> None:
    assert run()[0] == 0
    assert run("2", command="promote")[0] == 0
    (run.folder / "out" / "champion").write_text("two")
    code, printed = run(str(run.data / "a.parquet"), command="predict")
    assert code == 2
    assert "champion: expected the number of a version, found none; name one with `incr promote`" in printed
    assert run("3", command="promote")[0] == 0
    assert run(str(run.data / "a.parquet"), command="predict")[0] == 0


@pytest.mark.parametrize("output", ["nowhere/out.parquet", "data"])
def test_predictions_that_cannot_be_written_are_refused_first(run: Run, output: str) -> None:
    assert run()[0] == 0
    more = [str(run.data / "a.parquet"), "-o", str(run.folder / output)]
    code, printed = run(*more, command="predict")
    assert code == 2
    assert "expected a file in a folder that is there, got" in printed


def test_versions_of_no_run_say_nothing_but_that(run: Run) -> None:
    code, printed = run(command="versions", out="data")
    assert code == 2
    assert printed.startswith("incr: ")


@pytest.mark.parametrize("file", ["versions/5/model.safetensors", "state/all/5", "versions/5/state.zip"])
def test_a_flipped_byte_is_found_and_its_file_named(run: Run, file: str) -> None:
    assert run()[0] == 0
    path = run.folder / "out" / file
    if path.is_dir():
        path = next(path.glob("tensors-*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for name in ("c.parquet",):  # more to learn, so that the run must go on from its last commit
        run.write(name, made_up(200, seed=1).set_column(3, "at", pa.array(made_up(2000)["at"].to_numpy()[-200:])))
    code, printed = run()
    assert code == 2
    assert str(path) in printed


def test_a_directory_that_cannot_be_written_fails_cleanly(run: Run) -> None:
    (run.folder / "file").write_text("no folder")
    code, printed = run(out="file/out")
    assert code in (1, 2)
    assert "file" in printed
    assert "Traceback" not in printed


def test_a_full_disk_fails_cleanly_and_leaves_earlier_versions_intact(run: Run) -> None:
    whole = json.loads(run("--json", out="whole")[1])

    def little_room() -> None:  # a file can grow to 40 kB only: the first commits fit, the metrics outgrow it
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    command = [
        sys.executable,
        "-m",
        "incr_core.commands.cli",
        "run",
        "job.toml",
        "--out",
        "out",
        "--set",
        "stream.every=1000",
    ]
    command += ["--set", "features.buckets=2048", "--set", "model.hidden=[256, 256]"]
    done = subprocess.run(command, cwd=run.folder, preexec_fn=little_room, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "earlier versions are intact" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(run("--json", out="whole")[1])["model_sha256"] == whole["model_sha256"]


ENDLESS = """
import itertools

def rows():
    for day in itertools.count():
        yield {"x": [day % 5 + 0.1 * i for i in range(8)], "y": [(day + i) % 2 for i in range(8)]}
"""


def test_ctrl_c_stops_at_the_next_commit(tmp_path: Path) -> None:
    job, out = fed_job(tmp_path), tmp_path / "out"
    (tmp_path / "feed.py").write_text(ENDLESS)
    child = begin(["run", str(job), "--out", str(out)], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (out / "champion").exists(), child)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate()
    assert child.returncode == 130, said
    assert "stopped at version" in said
    with RunDirectory.open(out) as directory:
        version = directory.latest()
        assert version is not None
        assert count(directory.table("ledger")) == 8 * version


def test_a_loss_that_is_no_longer_finite_ends_the_run_at_its_last_commit(run: Run) -> None:
    code, printed = run("--set", 'learner.optimizer={name="sgd", lr=1e30}')
    assert code == 1
    assert "lower learner.optimizer.lr or set learner.clip" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("slow", "learner.lr=3", "baselines.slow: job: learner.lr: unknown key"),
        ("../out", "learner.frozen=true", "baselines.../out: expected a plain name"),
    ],
)
def test_baselines_are_checked_before_the_run(run: Run, name: str, setting: str, message: str) -> None:
    text = (run.folder / "job.toml").read_text()
    (run.folder / "job.toml").write_text(f'{text}\n[baselines]\n"{name}" = ["{setting}"]\n')
    code, printed = run()
    assert code == 2
    assert message in printed
    assert not (run.folder / "out").exists()
