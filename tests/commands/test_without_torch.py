"""What only reads a run's records does without torch, whose import takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from incr_core.runs import open_run
from tests.support.made_up import made_up

WITHOUT = """
import sys
sys.modules["torch"] = None  # an import of it fails
from incr_core.commands.cli import main
code = main(["status", sys.argv[1]]) or main(["status", "--json", sys.argv[1]]) or main(["versions", sys.argv[1]])
assert main(["stop", sys.argv[1]]) == 2
sys.exit(code)
"""


EXPLAIN = """
import sys
sys.modules["torch"] = None
from incr_core.commands.cli import main
sys.exit(main(["explain"]) or main(["explain", "learner"]) or main(["explain", "stream.every"]))
"""


def test_a_key_is_explained_without_torch() -> None:
    process = subprocess.run([sys.executable, "-c", EXPLAIN], capture_output=True, text=True, timeout=300, check=False)
    assert (process.returncode, process.stderr) == (0, "")
    assert "learner.batch_size" in process.stdout


@pytest.mark.slow
def test_a_run_is_looked_at_without_torch(tmp_path: Path) -> None:
    table = made_up(40).select(["height", "weight", "tall"])
    run = open_run(tmp_path / "run", stream=table, label="tall", classes=[0, 1], hidden=[4]).run()
    command = [sys.executable, "-c", WITHOUT, str(run.path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (process.returncode, process.stderr.count("\n")) == (0, 1), process.stderr
    assert "expected a run that is being learned" in process.stderr
    assert run.versions[0].model_sha256[:12] in process.stdout
