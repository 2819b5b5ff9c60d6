"""Runs on a GPU, as the command line begins them: repeated and resumed to the bit, and answered for anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.runs import Run
from tests.support.federated_runs import finish, people
from tests.support.repository import ROOT

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

EXPERTS = ("model.kind=auto", "learner.epochs=auto", 'strategy=[{name="replay", capacity=200, memory="window"}]')
IDS = ('features.ids=["colour"]', "features.categorical=[]", "model.kind=factorisation", "learner.balance=true")
RIDGE = ('learner.head={name="ridge", features=60}', "strategy=[]", "learner.warm_epochs=1")


def incr(*arguments: str, gpu: bool = True) -> str:
    """What a command prints; gpu: whether it sees one."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if not gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-m", "incr_core.commands.cli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def written(job: Job, folder: Path) -> Path:
    path = folder / "job.toml"
    path.write_text(job.toml())
    return path


def run(job: Path, out: Path, *settings: str) -> dict[str, Any]:
    asked = [each for setting in settings for each in ("--set", setting)]
    told: dict[str, Any] = json.loads(incr("run", str(job), "--out", str(out), "--json", *asked))
    return told


def test_a_run_is_the_same_twice_near_the_cpus_and_its_champion_answers_without_a_gpu(
    table: Path, tmp_path: Path
) -> None:
    job = written(people(table).resolved(), tmp_path)
    cpu = run(job, tmp_path / "cpu")
    one, other = (run(job, tmp_path / name, "learner.device=cuda") for name in ("one", "other"))
    assert one["model_sha256"] == other["model_sha256"] != cpu["model_sha256"]
    assert one["rows_learned"] == cpu["rows_learned"]
    measure = "accuracy"
    assert one["prequential"][measure] == pytest.approx(cpu["prequential"][measure], abs=0.05)

    found = []
    for gpu in (True, False):
        output = tmp_path / f"{gpu}.parquet"
        incr("predict", str(tmp_path / "one"), str(table), "-o", str(output), gpu=gpu)
        found.append(torch.tensor(pq.read_table(output)["probability"].to_pylist()))
        told = json.loads(incr("evaluate", str(tmp_path / "one"), str(table), "--json", gpu=gpu))
        assert told["rows"] == 2000
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("graphs", [False, True])
def test_a_run_is_resumed_to_the_bit(table: Path, tmp_path: Path, graphs: bool) -> None:
    """Dropout, Adam and replay among the rest."""
    job = people(table, "learner.device=cuda", f"learner.graphs={str(graphs).lower()}").resolved()
    whole = finish(job, tmp_path / "whole", LocalEngine)
    for stop in (2, 5):
        finish(job, tmp_path / "parts", LocalEngine, stop_after=stop)
    assert finish(job, tmp_path / "parts", LocalEngine).sha256 == whole.sha256


@pytest.mark.parametrize("settings", [EXPERTS, RIDGE, IDS], ids=["experts", "ridge head", "ids"])
def test_sums_and_tables_are_alike_at_each_run_and_resume_and_near_the_cpu(
    table: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    """Closed forms beside the network (Gram matrices, their solution, the mix of experts), and tables of ids."""
    job = people(table, "learner.device=cuda", *settings).resolved()
    whole, cpu = finish(job, tmp_path / "whole", LocalEngine), people(table, *settings).resolved()
    assert whole.score == pytest.approx(finish(cpu, tmp_path / "cpu", LocalEngine).score, abs=0.05)
    finish(job, tmp_path / "parts", LocalEngine, stop_after=3)
    assert finish(job, tmp_path / "parts", LocalEngine).sha256 == whole.sha256
    found = []
    for gpu in (True, False):
        incr("predict", str(tmp_path / "whole"), str(table), "-o", str(tmp_path / f"{gpu}.parquet"), gpu=gpu)
        found.append(torch.tensor(pq.read_table(tmp_path / f"{gpu}.parquet")["probability"].to_pylist()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_recorded_steps_change_no_bit_of_a_run(table: Path, tmp_path: Path) -> None:
    job = people(table, "learner.device=cuda").resolved()
    recorded = people(table, "learner.device=cuda", "learner.graphs=true").resolved()
    one = finish(job, tmp_path / "eager", LocalEngine)
    assert finish(recorded, tmp_path / "recorded", LocalEngine).sha256 == one.sha256


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns(table: Path, tmp_path: Path, precision: str) -> None:
    job = people(table, "learner.device=cuda", f"learner.precision={precision}").resolved()
    assert finish(job, tmp_path / "run", LocalEngine).score > 0.6


def test_a_champion_is_served_from_the_gpu(table: Path, tmp_path: Path) -> None:
    job = people(table, "learner.device=cuda", "learner.graphs=true").resolved()
    finish(job, tmp_path / "run", LocalEngine)
    champion = Run(tmp_path / "run").champion
    answer = champion.predict({"height": [180.0], "weight": [70.0], "colour": ["red"]})
    assert 0 <= answer["probability"][0].as_py() <= 1
