"""Ray's workers in tests, forked from one process that has imported what they do: torch is most of a short run.

Ray starts a worker as `PYTHON default_worker.py ...`. While a Ray starts within `forked_workers`, PYTHON is a script
that passes its arguments, environment and files on to that process, and ends when the worker does. All else is Ray's.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["forked_workers"]

SCRIPT = """#!{python} -ISE
import json, os, socket, sys

if not sys.argv[1].endswith("default_worker.py"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as there:
    there.connect({address!r})
    socket.send_fds(there, [b"."], [0, 1, 2])
    there.sendall(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode())
    there.shutdown(socket.SHUT_WR)
    there.recv(1)
"""
IMPORTED = ("cluster._actors", "torch.distributed.fsdp", "federated._client_process")
"""What workers of a cluster import, those that hold shards, and those of a federation."""

DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@contextmanager
def forked_workers() -> Iterator[str]:
    """What to take for Python, `sys.executable`, while a Ray starts. Its workers are no longer started afterwards."""
    if sys.platform != "linux":
        yield sys.executable
        return
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        script, address = Path(folder, "python"), str(Path(folder, "workers"))
        script.write_text(SCRIPT.format(python=sys.executable, address=address))
        script.chmod(0o700)
        listener.bind(address)
        listener.listen(100)
        command = [sys.executable, "-m", "tests.support.forked_workers", str(listener.fileno())]
        alone: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "start_new_session": True}
        with subprocess.Popen(command, pass_fds=[listener.fileno()], **alone) as forks:
            try:
                yield str(script)
            finally:
                forks.terminate()


def main(descriptor: int) -> None:
    """Fork a worker for each script that asks, in its environment: Ray reads settings from there as it is imported."""
    ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGTERM)
    signal.signal(signal.SIGCHLD, lambda *_: _bury())
    with socket.socket(fileno=descriptor) as listener:
        while True:
            there, _ = listener.accept()
            _, files, _, _ = socket.recv_fds(there, 1, 3)
            with there.makefile("rb") as told:
                arguments, environment, folder = json.load(told)
            os.environ.clear()
            os.environ.update(environment)
            for name in IMPORTED:
                import_module(name)
            if os.fork() == 0:  # it keeps `there`, whose end tells the script of its own
                listener.close()
                return _be_worker(arguments, folder, files)
            there.close()
            for file in files:
                os.close(file)


def _bury() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _be_worker(arguments: list[str], folder: str, files: list[int]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(folder)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(int(sys.argv[1]))
