"""The locks hold all that the project asks for, by plain versions, and what is installed is installed by them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.repository import ROOT
from tools.latest import direct, read_lock
from tools.lock import SETS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def wanted(extras: str) -> list[Requirement]:
    texts = [*direct(PROJECT), *(text for extra in extras.split(",") for text in direct(PROJECT, extra))]
    return [one for one in map(Requirement, texts) if one.marker is None or one.marker.evaluate()]


@pytest.mark.parametrize("name", SETS)
def test_a_lock_meets_every_bound_of_the_project(name: str) -> None:
    lock = read_lock(name)
    outside = [str(one) for one in wanted(SETS[name]) if lock[canonicalize_name(one.name)] not in one.specifier]
    assert outside == [], f"locks/{name}.txt: run `make lock`"


@pytest.mark.parametrize("name", SETS)
def test_a_lock_is_versions_in_order_and_no_index(name: str) -> None:
    lines = [line for line in (ROOT / f"locks/{name}.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0])
    assert "torch==2.13.0" in lines
    assert [line for line in lines if re.match("nvidia|cuda|triton|incr=", line)] == []


def test_each_lock_holds_what_it_is_there_for() -> None:
    dev, bench = (read_lock(name) for name in ("dev", "bench"))
    assert bench["pfl"].startswith("0.6")
    assert Version(bench["dp-accounting"]) < Version("0.6")
    assert Version(dev["pyarrow"]).major == 26
    assert "pfl" not in dev
    assert not {"mlflow", "mlflow-tracing"} & {*dev, *bench}  # the whole MLflow keeps pyarrow at 25


def test_the_lock_holds_what_its_packages_ask_for_in_turn() -> None:
    """As far as this environment has the lock's versions; newer ones (`make latest`) may ask for other packages."""
    lock = read_lock("dev")
    missing = []
    for package in metadata.distributions():
        name = canonicalize_name(package.metadata["Name"])
        if lock.get(name) != package.version.partition("+")[0]:
            continue
        for one in map(Requirement, package.requires or []):
            needed = one.marker is None or one.marker.evaluate({"extra": ""})
            if needed and not re.match("nvidia|cuda|triton", one.name) and canonicalize_name(one.name) not in lock:
                missing.append(f"{name} needs {one}")
    assert missing == []


def test_make_installs_by_the_lock_and_again_when_it_changes(tmp_path: Path) -> None:
    command = ["make", "--dry-run", "--always-make", "install", f"VENV={tmp_path}/env", f"PYTHON={sys.executable}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "pip install --quiet --constraint locks/dev.txt --editable '.[dev]'" in said
    assert re.search(
        r"^\$\(VENV\)/\.installed:.* pyproject\.toml locks/dev\.txt$", (ROOT / "Makefile").read_text(), re.M
    )


def test_quick_leaves_out_what_its_markers_say() -> None:
    command = ["make", "--dry-run", "--assume-old=install", "quick"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert '-m "not slow and not ray and not flower and not chaos"' in said
