"""A PostgreSQL of the tests: a real one, in a folder of its own, that can be killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.support.ports import free_port

__all__ = ["Postgres", "postgres"]

BINARIES = {name: shutil.which(name) for name in ("initdb", "postgres")}


class Postgres:
    """A server on the loopback address; `url` names its database."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, free_port()
        self.url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"
        # It refuses to run as root.
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(folder, self._user)
        command = [str(BINARIES["initdb"]), "-D", "data", "-U", "tester", "-A", "trust", "--locale=C", "-E", "UTF8"]
        subprocess.run([*command, "--no-sync"], cwd=folder, user=self._user, check=True, stdout=subprocess.DEVNULL)
        self.start()

    def start(self) -> None:
        """Start it, after a kill too, and wait until it answers."""
        command = [str(BINARIES["postgres"]), "-D", "data", "-p", str(self.port), "-k", "", "-h", "127.0.0.1"]
        with open(self._folder / "log", "ab") as log:
            while True:
                self._process = subprocess.Popen(command, cwd=self._folder, user=self._user, stdout=log, stderr=log)
                while self._process.poll() is None:
                    try:
                        psycopg.connect(self.url).close()
                        return
                    except psycopg.OperationalError:
                        time.sleep(0.05)
                time.sleep(0.1)  # processes of the killed one still hold its memory

    def kill(self) -> None:
        """SIGKILL; its other processes notice that it is gone, and end."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it, without waiting for clients."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """Return the rows of a statement."""
        with psycopg.connect(self.url, autocommit=True) as session:
            found = session.execute(sql.encode())
            return found.fetchall() if found.description else []


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server that ends afterwards; skips the test if PostgreSQL is not installed."""
    if None in BINARIES.values():
        pytest.skip("needs initdb and postgres")
    folder = Path(tempfile.mkdtemp(prefix="incr-postgres-"))
    try:
        server = Postgres(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
