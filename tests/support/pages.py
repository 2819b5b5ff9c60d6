"""The code blocks of a Markdown page, and how they run: in one folder, in the order of the page.

<!-- file: NAME -->     the block is written to this file
<!-- run -->            Python runs as a script, console lines after `$` as commands
<!-- run in: FOLDER --> the same, in a folder of that folder
<!-- before: COMMAND -->  a command that the page takes for granted
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from incr_core.commands.cli import main
from tests.support.repository import ROOT

__all__ = ["Block", "blocks", "incr_commands", "pages", "run_page"]

MARK = re.compile(
    r"<!-- (?P<before>before: (?P<command>[^>]+)) -->\n"
    r"|(?:<!-- (?P<mark>run|run in: \S+|file: \S+) -->\n)?```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)```",
    re.DOTALL,
)


class Block(NamedTuple):
    """A block of a page. mark: how it is run, "" where it is not. kind: its language."""

    mark: str
    kind: str
    text: str


def pages() -> list[Path]:
    """All pages of the site that are written by hand, and the README."""
    found = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*/*.md")]
    return sorted([*found, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"])


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order."""
    for found in MARK.finditer(page.read_text()):
        if found["before"]:
            yield Block("run", "console", f"$ {found['command']}")
        else:
            yield Block(found["mark"] or "", found["kind"], found["text"])


def incr_commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every `incr` command that a page shows on lines of their own, marked or not."""
    text = page.read_text().replace("\\\n", " ")
    for line in re.findall(r"(?m)^(?: {4,}|\$ )(?:PYTHONPATH=\. |ray job submit .* -- +)?incr ([a-z].*)$", text):
        yield shlex.split(line, comments=True)


def run_page(page: Path, folder: Path) -> None:
    """Run the marked blocks of a page in this folder, which is the current one; AssertionError names what fails."""
    for block in blocks(page):
        if block.mark.startswith("file: "):
            place = folder / block.mark.removeprefix("file: ")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(block.text)
        elif block.mark and block.kind == "python":
            script = [sys.executable, "-c", block.text]
            done = subprocess.run(
                script, cwd=folder / block.mark[len("run in: ") :], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, block.text + done.stdout + done.stderr
        elif block.mark:
            for line in block.text.splitlines():
                _run_line(line.removeprefix("$ "), folder)


def _run_line(line: str, folder: Path) -> None:
    """Run a command: `incr` in this process, where nothing is set in front of it."""
    environment = dict(os.environ)
    command, *arguments = shlex.split(line)
    if command == "incr":
        assert main(arguments) == 0, line
        return
    if command == "PYTHONPATH=.":
        command, *arguments = arguments
        environment["PYTHONPATH"] = os.pathsep.join([".", str(ROOT)])
    program = {"python": [sys.executable], "incr": [sys.executable, "-m", "incr_core.commands.cli"]}.get(
        command, [command]
    )
    done = subprocess.run(
        [*program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, line + done.stdout + done.stderr
