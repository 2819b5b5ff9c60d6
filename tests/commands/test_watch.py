"""`incr status --watch`: what changes is told until the run ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from incr_core.commands.cli import main
from tests.support.gated import Gates, fed_job

INCR = [sys.executable, "-m", "incr_core.commands.cli"]


@pytest.mark.slow
def test_a_run_is_watched_until_it_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gates, out = Gates(tmp_path), str(tmp_path / "run")
    run = subprocess.Popen([*INCR, "run", str(fed_job(tmp_path)), "--out", out, "--quiet"])
    watching = None
    try:
        while not (gates.reached and (tmp_path / "run" / "versions" / "5").exists()):
            assert run.poll() is None
        watching = subprocess.Popen([*INCR, "status", out, "--watch", "--json"], stdout=subprocess.PIPE, text=True)
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        assert (first["version"], first["rows_learned"], first["running"] is None) == (5, 40, False)
        gates.open()
        told = [json.loads(line) for line in watching.stdout]
        assert (watching.wait(60), run.wait(60)) == (0, 0)
    finally:
        for process in (run, watching):
            if process is not None:
                process.kill()
                process.communicate()
    assert (told[-1]["version"], told[-1]["rows_learned"], told[-1]["running"]) == (12, 96, None)
    assert len({json.dumps(one) for one in told}) == len(told)
    assert main(["status", out, "--watch"]) == 0  # it has ended: told once
    assert capsys.readouterr().out.count("version 12, committed") == 1
