"""What looks at a change before and after it is committed: the hooks and CI run what `make` runs, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tests.support.repository import ROOT

HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
MAKEFILE = (ROOT / "Makefile").read_text()


def test_the_hooks_are_the_commands_of_make_lint_and_need_no_other_host() -> None:
    assert [repository["repo"] for repository in HOOKS] == ["local"]
    hooks = HOOKS[0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    (recipe,) = re.findall(r"^lint: install\n((?:\t.*\n)+)", MAKEFILE, re.M)
    linted = [line.strip().removeprefix("$(BIN)/").removesuffix(" .") for line in recipe.splitlines()]
    assert [hook["entry"].removesuffix(" --force-exclude") for hook in hooks] == linted


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="pre-commit needs git")
@pytest.mark.parametrize(
    ("text", "said"),
    [("total = 1\n", ""), ("import os\n", "F401"), ("total  =  1\n", "would be reformatted")],
    ids=["clean", "unused", "unformatted"],
)
def test_the_hooks_stop_what_make_lint_would_stop(text: str, said: str, tmp_path: Path) -> None:
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "it.py").write_text(f'"""A module."""\n\n{text}')
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = {**outside, "PATH": path, "PRE_COMMIT_HOME": str(tmp_path / "home"), "SKIP": "lint-imports"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert run("git", "init", "--quiet").returncode == 0
    run("git", "add", "it.py")
    found = run("pre-commit", "run", "--files", "it.py")
    assert found.returncode == bool(said), found.stdout + found.stderr
    assert said in found.stdout


def test_ci_runs_make_test_on_every_python_that_the_project_names() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line]
    assert job["strategy"]["matrix"]["python"] == named == ["3.11", "3.12", "3.13"]
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert (ROOT / ".ci/run").read_text().endswith("\nexec make test\n")
    assert os.access(ROOT / ".ci/run", os.X_OK)
