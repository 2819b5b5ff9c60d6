"""`incr run --follow`: files are learned as they come, until somebody stops it; a change is carried out meanwhile."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tomli_w

from incr_core.commands.cli import main
from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.runs import Run
from incr_core.runs._learn import learn
from tests.support.made_up import made_up
from tests.support.processes import begin, wait_until

pytestmark = pytest.mark.slow


def test_files_are_learned_as_they_come_until_a_signal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out, table = tmp_path / "data", tmp_path / "run", made_up(400)
    data.mkdir()
    pq.write_table(table.slice(0, 100), data / "0.parquet")
    document = {
        "stream": {"path": str(data)},
        "features": {"label": "tall", "numeric": ["height", "weight"]},
        "learner": {"objective": "binary"},
        "publish": {"every": 5, "states": 9},
        "baselines": {"frozen": ["learner.frozen=true"]},
    }
    (tmp_path / "job.toml").write_text(tomli_w.dumps(document))
    command = ["run", str(tmp_path / "job.toml"), "--out", str(out), "--follow", "--json"]
    process = begin(command, stdout=subprocess.PIPE)
    try:
        wait_until(lambda: Run(out).exists(), process)
        for part in (1, 2):
            (data / f".{part}.parquet").write_bytes(b"half")
            pq.write_table(table.slice(100 * part, 100), tmp_path / "whole")
            (tmp_path / "whole").rename(data / f"{part}.parquet")
            wait_until(lambda part=part: Run(out).summary.rows_learned == 100 * (part + 1), process)  # type: ignore[misc]
        assert main(["promote", str(out), "1"]) == 0
        assert Run(out).champion.number == 1
        assert main(["rollback", str(out), "2"]) == 0
        # 4 is version 2 again, and the third file is learned anew
        wait_until(lambda: Run(out).summary.version == 5, process)
        assert Run(out).status.running is not None
    finally:
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=600)[0]
    assert process.returncode == 0
    assert b'"rows_learned": 300' in told
    assert Run(out).table("ledger")["version"].to_pylist() == [1, 2, 5]
    assert not (out / "baselines").exists()
    assert main([*command, "--detach"]) == 2
    assert "--follow, --detach: expected one of them" in capsys.readouterr().err


def test_a_signal_while_the_engine_is_made_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(LocalEngine):
        def __init__(self, job: Job, directory: Path) -> None:
            super().__init__(job, directory)
            signal.raise_signal(signal.SIGTERM)

    pq.write_table(made_up(200), tmp_path / "0.parquet")
    document = {
        "stream": {"path": str(tmp_path / "*.parquet"), "every": 100},
        "features": {"label": "tall", "numeric": ["height", "weight"]},
        "learner": {"objective": "binary"},
    }
    monkeypatch.setattr("incr_core.runs._learn.engine_chosen", lambda job, on: (Slow, job))
    learn(Job.from_document(document).resolved(), tmp_path / "run", "local", None, follow=True)
    assert Run(tmp_path / "run").summary.rows_learned == 0
