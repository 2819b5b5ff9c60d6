"""A user's own cluster.py, federated.py or another file beside the job that has the name of a package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.errors import JobError
from incr_core.models import MODELS
from tests.support.repository import ROOT

JOB = """
[stream]
path = "data.parquet"

[features]
label = "y"

[model]
factory = "own_model:make"

[learner]
objective = "regression"
"""

MODEL = """
import torch

def make():
    return torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Flatten(0))
"""


def python(arguments: list[str], folder: Path) -> tuple[int, str, str]:
    """Run Python in a folder; the exit code, the output and the errors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800)
    return done.returncode, done.stdout, done.stderr


def incr(folder: Path, how: str, engine: str) -> tuple[int, str]:
    """Run the folder's job from there, as a module or a script does; the exit code and the errors."""
    (folder / "job.toml").write_text(JOB)
    (folder / "own_model.py").write_text(MODEL)
    pq.write_table(pa.table({"x": [1.0, 2.0], "y": [2.0, 4.0]}), folder / "data.parquet")
    (folder / "script.py").write_text("from incr_core.commands.cli import main; raise SystemExit(main())")
    command = ["-m", "incr_core.commands.cli"] if how == "module" else ["script.py"]
    code, _, errors = python([*command, "run", "job.toml", "--on", engine, "--out", "out", "--quiet"], folder)
    return code, errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "engine", "own"), [("module", "cluster", "cluster.py"), ("script", "federated", "federated/__init__.py")]
)
def test_a_module_of_that_name_that_is_found_first_is_named(tmp_path: Path, how: str, engine: str, own: str) -> None:
    path = tmp_path / own
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise SystemExit('this must not be run')\n")
    code, said = incr(tmp_path, how, engine)
    shown = tmp_path / own.removesuffix("/__init__.py")
    assert (code, said) == (
        2,
        f"incr: --on {engine}: expected our package {engine} ({ROOT / engine}), got {shown}, which Python finds first; "
        "rename that, run from another folder (`python -m` and scripts look in theirs first), or uninstall it\n",
    )


@pytest.mark.slow
@pytest.mark.flower
def test_a_module_of_that_name_beside_the_job_is_in_nobodys_way(tmp_path: Path) -> None:
    """Nor is one with the name of a library, for whoever imports it after the job's folder is known."""
    for name in ("cluster", "federated", "random", "ray"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this must not be run')\n")
    (tmp_path / "own_model.py").write_text("import random\n" + MODEL)
    (tmp_path / "script.py").write_text(
        "from incr_core.models import MODELS\n"
        f"MODELS.find('own_model:make', 'model.factory', {str(tmp_path)!r})\n"
        "from incr_core.engines import engine_named\n"
        "print(*(engine_named(name).__name__ for name in ('local', 'cluster', 'federated')))\n"
    )
    script = (tmp_path / "script.py").read_text()
    assert python(["-c", script], ROOT) == (0, "LocalEngine ClusterEngine FederatedEngine\n", "")


def test_a_file_beside_the_job_that_a_library_hides_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "colorsys.py").write_text("def model():\n    return 7\n")
    (tmp_path / "needs_mine.py").write_text("from colorsys import model\n")
    import colorsys

    hides = f"; colorsys is {colorsys.__file__}, which hides {tmp_path / 'colorsys.py'}: give yours another name"
    for name in ("colorsys:model", "needs_mine:model"):
        with pytest.raises(JobError) as caught:
            MODELS.find(name, "model.factory", str(tmp_path))
        assert hides in str(caught.value)
