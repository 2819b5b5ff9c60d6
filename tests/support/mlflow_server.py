"""A server of MLflow on loopback, with SQLite, as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import wait_until

__all__ = ["QUIET", "mlflow_server"]

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Settings of MLflow: no reports to its makers, no further processes, no progress bars."""


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """Its address. What it keeps is in `folder`, for the next one."""
    stores = ["--backend-store-uri", f"sqlite:///{folder}/db.sqlite", "--artifacts-destination", f"{folder}/artifacts"]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(
            [*command, *stores], env=os.environ | QUIET, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(address), process)
        yield address
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5):
            return True
    except OSError:
        return False
