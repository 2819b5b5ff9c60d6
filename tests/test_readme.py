"""Every block of the README marked `<!-- run -->` runs in one folder, Python first; files it shows lie there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from incr_core.commands.cli import main
from tests.support.made_up import made_up
from tests.support.repository import ROOT

BLOCK = re.compile(r"<!-- (run|file: (?P<file>\S+)) -->\n```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


@pytest.mark.slow
def test_every_block_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(made_up(400), tmp_path / "people.parquet")
    blocks = list(BLOCK.finditer((ROOT / "README.md").read_text()))
    assert {block["kind"] for block in blocks} == {"python", "toml", "console"}
    for block in [block for block in blocks if block["file"]]:
        (tmp_path / block["file"]).write_text(block["text"])
    script = "".join(block["text"] for block in blocks if block["kind"] == "python")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for block in [block for block in blocks if block["kind"] == "console"]:
        for line in block["text"].splitlines():
            assert main(line.removeprefix("$ incr ").split()) == 0, line


def test_the_tree_of_the_readme_names_every_module() -> None:
    readme = (ROOT / "README.md").read_text()
    tree = readme[readme.index("## The tree") :]
    for package in ("incr_core", "cluster", "federated"):
        part = tree[tree.index(f"    {package}/") :]
        names = {path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
        names |= {f"{path.parent.name}/" for path in (ROOT / package).glob("*/__init__.py")}
        assert [name for name in sorted(names) if name not in part] == [], package
