"""What is given to others: an sdist, the wheel made of it, and a job run by the wheel alone in an empty environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import pyarrow.parquet as pq
import pytest

from incr_core.registry import RunDirectory
from tests.support.made_up import made_up
from tests.support.repository import ROOT

pytestmark = pytest.mark.slow

PACKAGES = ("incr_core", "cluster", "federated")
DATA = ("incr_core/py.typed", "incr_core/commands/job_reference.json")
GENERATED = (".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist", "site")
JOB = """
[stream]
path = "people.parquet"
every = 100

[features]
label = "tall"
numeric = ["height", "weight"]
categorical = ["colour"]

[learner]
objective = "binary"
"""


class Built(NamedTuple):
    """The files that `make dist` makes."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both, built as `make dist` builds them, from a copy: a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*GENERATED))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "source"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return Built(sdist, wheel)


def test_the_wheel_holds_the_packages_and_the_licence_and_no_tests(built: Built) -> None:
    with ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
        licence = archive.read("incr-0.2.0.dist-info/licenses/LICENSE").decode()
        metadata = Parser().parsestr(archive.read("incr-0.2.0.dist-info/METADATA").decode())
    ours = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert {name for name in names if not name.startswith("incr-0.2.0.dist-info/")} == {*ours, *DATA}
    assert licence == (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in licence
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "The incr developers"
    assert metadata["Requires-Python"] == ">=3.11"
    versions = [line.rpartition(" ")[2] for line in metadata.get_all("Classifier", []) if "Python :: 3." in line]
    assert versions == ["3.11", "3.12", "3.13"]


def test_the_sdist_holds_what_is_needed_to_test_it(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"LICENSE", "Makefile", "locks/dev.txt", "tools/lock.py", "examples/flights/job.toml", "docs/job.md"}
    assert needed | {".ci/run", ".github/workflows/ci.yml", ".pre-commit-config.yaml"} <= names
    tests = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")}
    assert {name for name in names if name.startswith("tests/") and name.endswith(".py")} == tests


def test_the_wheel_alone_runs_a_job(built: Built, tmp_path: Path) -> None:
    """In an environment that has torch and the other dependencies of this one, and of incr only the wheel."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python, incr = (str(tmp_path / "env/bin" / name) for name in ("python", "incr"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def done(*command: str) -> str:
        found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout

    pip = [sys.executable, "-m", "pip", "--python", python]
    done(*pip, "install", "--quiet", "--no-deps", "--no-index", str(built.wheel))
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    # A folder named in a .pth file is searched, while its own .pth files, such as one to this repository, are not read.
    outside = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(outside)) + "\n")
    where = "import incr_core, cluster, federated; print(incr_core.__file__, cluster.__file__, federated.__file__)"
    assert done(python, "-c", where).split() == [str(packages / package / "__init__.py") for package in PACKAGES]

    pq.write_table(made_up(400), tmp_path / "people.parquet")
    (tmp_path / "job.toml").write_text(JOB)
    done(incr, "run", "job.toml", "--out", "run")
    with RunDirectory.open(tmp_path / "run") as run:
        ranges = [pair for pairs in run.table("ledger")["ranges"].to_pylist() for pair in pairs]
    assert sorted(row for pair in ranges for row in range(pair["start"], pair["stop"])) == list(range(400))


def test_the_version_is_that_of_the_project(built: Built) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert built.wheel.name == f"incr-{version}-py3-none-any.whl"
    assert built.sdist.name == f"incr-{version}.tar.gz"
