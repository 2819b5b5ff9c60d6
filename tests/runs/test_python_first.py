"""What `import incr_core` gives, engines by object, and a run whose baselines count."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import incr_core
from cluster import Cluster
from incr_core import Job, Run, open_run, run
from incr_core.errors import ArgumentError, JobError, RunDirectoryError, StreamError
from incr_core.job import ClusterSection
from incr_core.loop import Progress
from incr_core.runs._engine_choice import engine_chosen
from tests.support.made_up import made_up

NAMES = ["Batch", "IncrError", "Job", "Learner", "Memory", "Objective", "Run", "Strategy", "open_run", "run"]
DRAWERS = ["data", "engines", "memories", "metrics", "models", "objectives", "strategies", "testing"]


def test_ten_names_and_eight_drawers() -> None:
    assert sorted(incr_core.__all__) == sorted(NAMES + DRAWERS)
    for name in NAMES:
        assert getattr(incr_core, name).__doc__, name
    for name in DRAWERS:
        assert getattr(incr_core, name) is importlib.import_module(f"incr_core.{name}")
        assert inspect.ismodule(getattr(incr_core, name))
    with pytest.raises(AttributeError, match="module 'incr_core' has no attribute 'EWC'"):
        _ = incr_core.EWC  # in a drawer


def test_naming_an_engine_imports_neither_ray_nor_torch() -> None:
    code = "import sys, incr_core; from cluster import Cluster; Cluster(replicas=2)\n"
    code += "print([name for name in ('ray', 'torch', 'pyarrow') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    pq.write_table(made_up(200), tmp_path / "people.parquet")
    document: dict[str, Any] = {
        "name": "people",
        "stream": {"path": str(tmp_path / "people.parquet"), "every": 50},
        "features": {"label": "tall"},
        "model": {"hidden": [4]},
        "learner": {"objective": "binary"},
        "cluster": {"shards": 3},
        "baselines": {"frozen": ["learner.frozen=true"]},
    }
    return Job.from_document(document).resolved()


@pytest.mark.ray  # its engine imports it
def test_an_engine_brings_its_settings_and_leaves_the_others(job: Job) -> None:
    kind, changed = engine_chosen(job, Cluster(replicas=1, timeout=7.0))
    assert (kind.__name__, changed.cluster.replicas, changed.cluster.shards) == ("ClusterEngine", 1, 3)
    assert changed.changed({"cluster": job.document()["cluster"]}) == job
    assert {field.name for field in fields(Cluster)} == ClusterSection.model_fields.keys()
    with pytest.raises(JobError, match=r"cluster\.replicas: expected a number, a range .*, got 0"):
        engine_chosen(job, Cluster(replicas=0))
    with pytest.raises(ArgumentError, match=r"on: expected the name of an engine or its settings, such as .*, got int"):
        run(job, "nowhere", on=3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^on: expected an engine, got 'mars'; known"):
        run(job, "nowhere", on="mars")
    with pytest.raises(ArgumentError, match=r"nonsense://x: expected a path or an address"):
        Run("nonsense://x")


@pytest.mark.slow
def test_a_run_has_finished_when_its_baselines_have(job: Job, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(name: str, progress: Progress) -> None:
        if name == "frozen":
            raise Stop

    with pytest.raises(Stop):
        run(job, tmp_path / "run", on_progress=stop)
    found = Run(tmp_path / "run")
    assert json.loads((tmp_path / "run/summary.json").read_text())["finished"]
    assert not found.summary.finished
    assert found.run().summary.finished
    assert "frozen" in (tmp_path / "run/report.html").read_text(), "the report is written again, beside its baselines"
    assert found.baselines["frozen"].summary.rows_predicted == 200
    assert found.baselines["frozen"].summary.model_sha256 != found.summary.model_sha256
    told = json.loads((tmp_path / "run/summary.json").read_text())
    assert {**found.summary.document(), "prequential": None} == {**told, "prequential": None}
    assert found.summary.prequential["auc"] == told["prequential"]["auc"]
    assert found.table("metrics")["rows_labelled"].to_pylist() == [50] * 4


def test_a_run_whose_job_an_earlier_incr_wrote_goes_on(job: Job, tmp_path: Path) -> None:
    """It knew fewer keys, so its job.toml has a fingerprint of its own."""
    out = tmp_path / "run"
    job = job.changed({"baselines": {}})
    done = run(job, out).summary.model_sha256
    head, *lines = (out / "job.toml").read_text().splitlines(keepends=True)
    fewer = [line for line in lines if not line.startswith(("aggregation", "memory_scope", "scale_lr"))]
    assert len(fewer) < len(lines)
    older = head.replace(job.fingerprint(), "0" * len(job.fingerprint())) + "".join(fewer)
    assert older.splitlines()[0] != head.strip()
    (out / "job.toml").write_text(older)
    with pytest.raises(RunDirectoryError, match=r"of another job: learner\.seed: 0 there, 5 here; choose"):
        run(job.with_settings(["learner.seed=5"]), out)
    assert (out / "job.toml").read_text() == older
    assert run(job, out).summary.model_sha256 == done
    assert (out / "job.toml").read_text().splitlines()[0] == head.strip()


@pytest.mark.slow
def test_a_job_file_runs_by_its_path_and_tables_by_their_names(tmp_path: Path, job: Job) -> None:
    (tmp_path / "job.toml").write_text(job.toml())
    paths: list[Path | str] = [tmp_path / "job.toml", str(tmp_path / "job.toml")]
    for place, path in enumerate(paths):
        assert run(path, tmp_path / f"run-{place}").summary.rows_learned == 200
    found = Run(tmp_path / "run-0")
    assert found.table("metrics").num_rows == 4
    assert found.table("duplicates").num_rows == 0
    with pytest.raises(ArgumentError, match=r"^table: expected .*, got 'metrcs'; did you mean 'metrics'\?"):
        found.table("metrcs")
    with pytest.raises(ArgumentError, match=r"got 'x'; known: clients, dropped, duplicates, events, ledger, metrics"):
        found.table("x")


@pytest.mark.parametrize("stream", [[], {"x": [], "y": []}])
def test_tables_without_rows_are_refused_in_words(tmp_path: Path, stream: Any) -> None:
    with pytest.raises(StreamError, match=r"^stream\.path: expected rows, got none in the tables given; wait for data"):
        open_run(tmp_path / "run", stream=stream, label="y")
