"""Where a Ray cluster is looked for."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.ray


def test_an_address_where_nobody_listens_is_refused_at_once(tmp_path: Path) -> None:
    """In a process of its own: that of the tests is on a Ray cluster, and stays there whatever the address."""
    pq.write_table(pa.table({"x": [0.0, 1.0], "y": [0, 1]}), tmp_path / "rows.parquet")
    (tmp_path / "job.toml").write_text(
        '[stream]\npath = "rows.parquet"\n[features]\nlabel = "y"\n[learner]\nobjective = "binary"\n'
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ["run", str(tmp_path / "job.toml"), "--on", "cluster", "--out", str(tmp_path / "run")]
        done = subprocess.run(
            [sys.executable, "-m", "incr_core.commands.cli", *arguments, "--set", f'cluster.address="{address}"'],
            capture_output=True,
            text=True,
            timeout=60,  # ray itself would ask for minutes
        )
    assert done.returncode == 2
    assert f"cluster.address: expected a Ray cluster at '{address}', got: " in done.stderr
    assert "refused" in done.stderr
    assert "start one (ray start --head)" in done.stderr
