"""`incr ingest` as a process, and the rows that it has landed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import tomli_w

from incr_core.commands.audit import audit
from incr_core.runs import Run
from tests.support.made_up import made_up
from tests.support.processes import begin

__all__ = ["audited", "follows", "ingesting", "landed", "numbered"]


def numbered(rows: int) -> pa.Table:
    """Rows of `made_up`, each with its number as `id`."""
    return made_up(rows).append_column("id", pa.array(range(rows)))


@contextmanager
def ingesting(folder: Path, *arguments: str, **options: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and its address once it is open. It has to end well, unless the test has ended it."""
    process = begin(["ingest", str(folder), *arguments], stdout=subprocess.PIPE, text=True, **options)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("taking "), line
        yield process, line.split()[-1]
    finally:
        was_killed = process.poll() is not None
        process.terminate()
        process.communicate(timeout=60)
    assert was_killed or process.returncode == 0


def landed(folder: Path) -> list[int]:
    """The ids of all landed rows of a table, in the order of the files."""
    tables = [pa.ipc.open_file(file).read_all() for file in sorted(folder.glob("[!.]*.arrow"))]
    return [id for table in tables for id in table["id"].to_pylist()]


def follows(folder: Path, job: Path) -> Path:
    """Write a job that follows a table."""
    document = {
        "stream": {"path": str(folder)},
        "features": {"label": "tall", "numeric": ["height", "weight"]},
        "learner": {"objective": "binary"},
    }
    job.write_text(tomli_w.dumps(document))
    return job


def audited(out: Path, rows: int) -> None:
    """Assert that a run has learned so many rows, each once."""
    found = audit(out)
    assert found.holds
    assert found.states.states["learned"] == rows == found.states.rows
    assert Run(out).summary.rows_learned == rows
