"""A Ray of several nodes on loopback, each a raylet of its own, as processes that a test may kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import free_ports

__all__ = ["Raylets"]

PATIENCE = 200
"""Looks at a Ray until all its nodes are there: seconds each, and minutes on a host that is busy."""

RAY = str(Path(sys.executable).with_name("ray"))


def environment() -> dict[str, str]:
    """Ours, with nothing in it of a Ray that may run around us."""
    found = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return found | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "1000",
        "RAY_worker_niceness": "0",  # other tests may run beside
    }


class Raylets:
    """A head, and nodes that join it.

    address: the head's, for `cluster.address`. metrics: where it exports metrics.
    """

    def __init__(self, cpus: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="incr-ray-"))  # a short name: sockets lie in it
        self._nodes: list[subprocess.Popen[bytes]] = []
        port, metrics = free_ports(2)
        self.address, self.metrics = f"127.0.0.1:{port}", f"http://127.0.0.1:{metrics}/metrics"
        options = f"--head --port={port} --include-dashboard=false --node-ip-address=127.0.0.1"
        self._start("head", f"{options} --metrics-export-port={metrics}", cpus)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in reversed(self._nodes):
            self._end(node)
        shutil.rmtree(self._folder, ignore_errors=True)

    def join(self, cpus: int) -> int:
        """Another node; returns its number."""
        self._start(f"node{len(self._nodes)}", f"--address={self.address} --node-ip-address=127.0.0.1", cpus)
        return len(self._nodes) - 1

    def kill(self, node: int) -> None:
        """SIGKILL for all that a node runs."""
        self._end(self._nodes[node])

    def node_of(self, pid: int) -> int:
        """The number of the node that a process belongs to; 0: the head."""
        return [node.pid for node in self._nodes].index(os.getpgid(pid))

    def drain(self, node: int) -> None:
        """Give notice that a node will be preempted."""
        notice = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=120"]
        command = [RAY, "drain-node", f"--address={self.address}", f"--node-id={self._id(node)}", *notice]
        subprocess.run(command, env=environment(), check=True)

    def _id(self, node: int) -> str:
        """Ray's id of a node, which its raylet was started with."""
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                told = file.read_text().split("\0")
                if "raylet/raylet" in told[0] and os.getpgid(int(file.parent.name)) == self._nodes[node].pid:
                    return next(option for option in told if option.startswith("--node_id=")).partition("=")[2]
        raise AssertionError(f"node {node} has no raylet")

    def _start(self, name: str, options: str, cpus: int) -> None:
        command = [RAY, "start", "--block", f"--num-cpus={cpus}", "--object-store-memory=100000000", *options.split()]
        if "--head" in options:
            command.append(f"--temp-dir={self._folder}")

        def begin() -> subprocess.Popen[bytes]:
            with open(self._folder / f"{name}.log", "ab") as log:
                return subprocess.Popen(command, env=environment(), stdout=log, stderr=log, start_new_session=True)

        self._nodes.append(begin())
        for _ in range(PATIENCE):
            wanted = sum(node.poll() is None for node in self._nodes)
            listed = subprocess.run(
                [sys.executable, "-c", NODES, self.address], capture_output=True, text=True, check=False
            )
            if self._nodes[-1].poll() is not None:  # Ray itself gives up where a host is too busy
                self._end(self._nodes[-1])
                self._nodes[-1] = begin()
            elif listed.stdout.strip() == str(wanted):
                return
            time.sleep(0.5)
        raise AssertionError(f"expected {wanted} nodes, got {listed.stdout} {listed.stderr}")

    @staticmethod
    def _end(node: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()


NODES = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()))
"""
