"""Small runs on disk, for the tests of the run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from incr_core.data import row_ids
from incr_core.registry import Committed, RunDirectory, loop_state, state_folder
from incr_core.registry.ledger import check, count, entry_table
from incr_core.storage import checkpoint

JOB = 'name = "flights"\n[learner]\nseed = 1\nlr = 0.1\n[[strategy]]\nkind = "replay"\nrows = 100\n'


def start(folder: Path, **options: Any) -> RunDirectory:
    return RunDirectory.create(folder, JOB, "f00d", **options)


def commit(run: RunDirectory, **options: Any) -> int:
    """Commit ten rows of metrics-worthy work; the weights say which version they are."""
    version = run.next_version()
    for participant in ("AA", "B6"):
        checkpoint.save(state_folder(run.path, participant, version), {"version": version})
    rows = row_ids(0, 10 * version, 10 * version + 10)
    quarantine = pa.table({"row": [version], "reason": ["label: not a number"]}) if version % 2 else None
    arguments: dict[str, Any] = {
        "manifest": {"increment": version, "name": f"day {version}", "cursor": {"fragment": version}},
        "metrics": pa.table({"increment": [version], f"loss.{version % 2}": [0.5], "version": [version]}),
        "ledger": pa.concat_tables(
            entry_table(version, name, part, ["a.parquet"], increment=version)
            for name, part in (("AA", rows[:5]), ("B6", rows[5:]))
        ),
        "quarantine": quarantine,
        "extra": {"history": pa.table({"delay": [1.0]})},
        "state": {"version": version},
        **options,
    }
    return run.commit({"weight": torch.full((3,), float(version)), "steps": torch.tensor(version)}, **arguments)


def assert_consistent(run: RunDirectory, versions: int) -> None:
    """What is in memory, in the segments and in the versions agree, and no row is lost or twice."""
    assert [manifest["version"] for manifest in run.versions()] == list(range(1, versions + 1))
    assert run.table("metrics")["version"].to_pylist() == list(range(1, versions + 1))
    check(run.table("ledger"))
    assert count(run.table("ledger")) == 10 * versions
    assert run.table("quarantine").num_rows == (versions + 1) // 2
    for name in ("metrics", "ledger", "quarantine") if versions else ():
        files = [pq.ParquetFile(file).read() for file in sorted((run.path / name).iterdir())]
        assert pa.concat_tables(files, promote_options="permissive").equals(run.table(name), check_metadata=False)
    assert run.champion() == run.latest() == (versions or None)
    for version in range(1, versions + 1):
        assert run.load(version)[0]["steps"] == version
    assert not list(run.path.rglob(".tmp-*"))
    assert Committed.read(run.path).violations == []
    for file in run.path.rglob("state.zip"):
        assert int(file.parent.name) in (versions - 1, versions)
    if versions:
        assert loop_state(run.path, versions) == {"version": versions}
    for folder in (run.path / "state").iterdir():
        assert sorted(int(state.name) for state in folder.iterdir()) == list(range(max(1, versions - 1), versions + 1))
