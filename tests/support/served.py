"""`incr serve` as a process, and ways to ask it."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def serving(directory: Path, *options: str) -> Iterator[str]:
    """A server's address."""
    with started(directory, *options) as (url, _):
        yield url


@contextmanager
def started(directory: Path, *options: str) -> Iterator[tuple[str, int]]:
    """A server's address and the id of its process, which is told to end afterwards."""
    port = [] if "--port" in options else ["--port", "0"]
    command = [sys.executable, "-m", "incr_core.commands.cli", "serve", str(directory), *port, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"serving {directory}, version "), line
        yield line.split()[-1], process.pid
    finally:
        process.terminate()
        assert process.wait(600) is not None
        assert process.stdout is not None
        process.stdout.close()


def ask(url: str, question: Any = None, *, token: str = "", context: ssl.SSLContext | None = None) -> Any:
    """An answer, or the status and the text of a refusal."""
    data = None if question is None else json.dumps(question).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=600, context=context) as answer:
            told = answer.read()
            return json.loads(told) if "json" in answer.headers["Content-Type"] else told.decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()
