"""Every block of the README marked `<!-- run -->` runs, in order, in one folder; files it shows are written there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT, made_up

BLOCK = re.compile(r"<!-- (run|file: (?P<file>\S+)) -->\n```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


def test_every_block_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(made_up(400), tmp_path / "people.parquet")
    blocks = list(BLOCK.finditer((ROOT / "README.md").read_text()))
    assert {block["kind"] for block in blocks} == {"python", "toml", "console"}
    for block in [block for block in blocks if block["file"]]:
        (tmp_path / block["file"]).write_text(block["text"])
    for block in [block for block in blocks if not block["file"]]:
        if block["kind"] == "python":
            _succeeds([sys.executable, "-c", block["text"]], tmp_path)
        else:
            for line in block["text"].splitlines():
                command = line.removeprefix("$ incr ").split()
                _succeeds([sys.executable, "-m", "incr_core.cli", *command], tmp_path)


def _succeeds(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
