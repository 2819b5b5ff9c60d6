"""How processes end: with their own exit code, whatever threads of a stream or of a library are still at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from incr_core.runs import Run
from tests.support.gated import fed_job

BUSY = """
import threading
import torch

def busy():
    numbers = torch.rand(300, 300)
    while True:
        numbers @ numbers

threading.Thread(target=busy, daemon=True).start()
"""
AHEAD = """
import torch
from incr_core._util import prefetch

def sums():
    numbers = torch.rand(300, 300)
    while True:
        yield numbers @ numbers

ahead = prefetch(sums(), 1_000)
next(ahead)
"""


def ended(*command: str) -> tuple[int, str]:
    process = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, check=False)
    return process.returncode, process.stderr


@pytest.mark.slow
def test_a_thread_in_cpp_does_not_abort_a_command_that_ends(tmp_path: Path) -> None:
    job = fed_job(tmp_path)
    (tmp_path / "feed.py").write_text((tmp_path / "feed.py").read_text() + BUSY)
    (tmp_path / "gates.json").write_text("[]")
    command = ("-m", "incr_core.commands.cli", "run", str(job), "--out", str(tmp_path / "run"))
    assert ended(*command, "--quiet") == (0, "")
    code, told = ended(*command[:-1], str(tmp_path / "other"), "--set", "features.label=absent")
    assert (code, told.count("\n"), "absent" in told) == (2, 1, True)


@pytest.mark.slow
def test_a_run_whose_reader_is_gone_learns_all_the_same(tmp_path: Path) -> None:
    job = fed_job(tmp_path)
    (tmp_path / "gates.json").write_text("[]")
    command = [sys.executable, "-m", "incr_core.commands.cli", "run", str(job), "--out", str(tmp_path / "run")]
    reads, writes = os.pipe()
    os.close(reads)
    process = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    os.close(writes)
    assert (process.returncode, Run(tmp_path / "run").summary.rows_learned) == (0, 96), process.stderr


@pytest.mark.slow
def test_what_runs_ahead_ends_with_a_process_that_never_asked_for_its_end() -> None:
    assert ended("-c", AHEAD) == (0, "")
