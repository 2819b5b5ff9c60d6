"""What a killed process leaves in the temporary folder goes with the next one that uses it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from incr_core.storage._scratch_folder import ScratchFolder

MAKE = """
import os, sys
from incr_core.storage._scratch_folder import ScratchFolder
folder = ScratchFolder()
(folder.path / "run").mkdir()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_folder_lives_as_long_as_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = [sys.executable, "-c", MAKE]
    with subprocess.Popen(
        command, env={"TMPDIR": str(tmp_path)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        mine = ScratchFolder()
        assert theirs.is_dir()  # it is still in use
        process.send_signal(signal.SIGKILL)
    assert theirs.is_dir()
    ScratchFolder().close()
    assert list(tmp_path.iterdir()) == [mine.path]
    mine.close()
    assert list(tmp_path.iterdir()) == []
