"""A Redis of the tests: a real one, with its log on disk, that can be killed and started again."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_port

__all__ = ["RedisServer", "redis_server"]

BINARY = shutil.which("redis-server")


class RedisServer:
    """A server on the loopback address; every write is on disk before it is answered."""

    def __init__(self, folder: Path) -> None:
        import redis

        self._folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.client = redis.Redis(port=self.port)
        self.start()

    def start(self) -> None:
        """Start it, also after a kill, and wait until it answers."""
        import redis

        command = [str(BINARY), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no"]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        while True:
            assert self._process.poll() is None, (self._folder / "log").read_text()
            try:
                self.client.ping()
                return
            except redis.RedisError:
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """A server that ends afterwards; skips the test if Redis or its client is not installed."""
    pytest.importorskip("redis")
    if BINARY is None:
        pytest.skip("needs redis-server")
    folder = Path(tempfile.mkdtemp(prefix="incr-redis-"))
    try:
        server = RedisServer(folder)
        try:
            yield server
        finally:
            server.client.close()
            server.kill()
    finally:
        shutil.rmtree(folder)
