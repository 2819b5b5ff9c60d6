"""`incr completion`: what the shells offer, without Python and without torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from incr_core.commands.cli import COMMANDS, main

TRY = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shtab_incr
printf '%s\\n' "${COMPREPLY[@]}"
"""

WITHOUT = """
import sys
sys.modules["torch"] = None  # an import of it fails
from incr_core.commands.cli import main
sys.exit(main(["completion", sys.argv[1]]))
"""


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("shtab", reason="needs the extra completion")
    command = [sys.executable, "-c", WITHOUT, "bash"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    script = tmp_path_factory.mktemp("completion") / "incr.bash"
    script.write_text(done.stdout)
    return script


def offered(script: Path, folder: Path, *words: str) -> list[str]:
    """The words that bash offers in place of the last one."""
    command = ["bash", "-c", TRY, "bash", str(script), "incr", *words]
    done = subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return sorted(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ex",), ["explain", "export"]),
        (("run", ""), ["job.toml", "runs"]),
        (("run", "job.toml", "--ou"), ["--out"]),
        (("run", "job.toml", "--on", ""), ["cluster", "federated", "local"]),
        (("run", "job.toml", "--set", "stream.ev"), ["stream.every="]),
        (("status", ""), ["runs"]),
        (("status", "runs/"), ["runs/people"]),
        (("export", "runs/people", "--format", ""), ["onnx", "pt2", "safetensors"]),
        (("explain", "learner.batch"), ["learner.batch_size"]),
        (("strategies", "replay", "ew"), ["ewc"]),
        (("completion", ""), ["bash", "fish", "zsh"]),
    ],
)
def test_bash_offers_commands_options_directories_and_names(
    bash: Path, tmp_path: Path, words: tuple[str, ...], expected: list[str]
) -> None:
    (tmp_path / "runs/people").mkdir(parents=True)
    (tmp_path / "job.toml").touch()
    (tmp_path / "rows.parquet").touch()
    assert offered(bash, tmp_path, *words) == expected


def test_bash_offers_every_command(bash: Path, tmp_path: Path) -> None:
    assert {*COMMANDS} <= {*offered(bash, tmp_path, "")}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_their_script(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="needs the extra completion")
    assert main(["completion", shell]) == 0
    told = capsys.readouterr().out
    assert "federated" in told
    assert "learner.batch_size" in told
    assert "replay" in told
    if found := shutil.which(shell):
        (tmp_path / "script").write_text(told)
        subprocess.run([found, "-n", str(tmp_path / "script")], timeout=60, check=True)


def test_without_shtab_the_remedy_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert capsys.readouterr().err.endswith("needs shtab, which is not installed; pip install 'incr[completion]'\n")


def test_strategies_are_described_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["strategies", "ewc", "replay"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("(")[0] for line in lines if line and not line.startswith(" ")] == ["ewc", "replay"]
    assert main(["strategies", "rplay"]) == 2
    assert capsys.readouterr().err == "incr: strategies: expected a strategy, got 'rplay'; did you mean 'replay'?\n"
