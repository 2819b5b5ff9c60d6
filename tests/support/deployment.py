"""A federation of processes on loopback: Flower's SuperLink, a client for each owner, and the server's command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from tests.support.certificates import write_node_key
from tests.support.federations import document
from tests.support.ports import free_port
from tests.support.processes import kill_all_of, wait_until
from tests.support.repository import ROOT
from tests.support.separate_users import as_user

BIN = Path(sys.executable).parent

LONG = 600.0
"""Seconds to wait for what will come, however busy the machine is."""


class Deployment:
    """The processes of a federation whose files lie below `folder`; `close` ends them, by their ids.

    secure: TLS, by certificates in the folder `tls` (ca.crt, server.pem, server.key), and registered nodes alone.
    """

    def __init__(self, folder: Path, *, secure: bool = False) -> None:
        self.folder, self.secure = folder, secure
        self.address = f"127.0.0.1:{free_port()}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            **os.environ,
            "FLWR_HOME": str(folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }
        (folder / "job.toml").write_text(tomli_w.dumps(document()))

    def starts(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a process of that name, whose output goes to a file of that name."""
        with open(self.folder / f"{name}.log", "ab") as log:
            found = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.processes[name] = found
        return found

    def superlink(self) -> None:
        """Start the SuperLink, and wait until it listens."""
        host, port = self.address.split(":")
        tls = ["--ssl-ca-certfile=tls/ca.crt", "--ssl-certfile=tls/server.pem", "--ssl-keyfile=tls/server.key"]
        safe = [*tls, "--enable-supernode-auth"] if self.secure else ["--insecure"]
        command = [str(BIN / "flower-superlink"), *safe, "--isolation=process", f"--host={host}", f"--port={port}"]
        superlink = self.starts("superlink", command)

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((host, int(port))) == 0

        wait_until(listens, superlink)

    def registers(self, owner: str) -> None:
        """Register an owner's key with the SuperLink, as its operator does; make the key where there is none."""
        if not (self.folder / f"{owner}.key").exists():
            write_node_key(self.folder / f"{owner}.key")
        (self.folder / "flwr").mkdir(exist_ok=True)
        (self.folder / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "ours"\n\n[superlink.ours]\naddress = "{self.address}"\n'
            f'root-certificates = "{self.folder}/tls/ca.crt"\n'
        )
        command = [str(BIN / "flwr"), "supernode", "register", f"{owner}.key.pub", "ours"]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def client(self, owner: str, *more: str, user: int | None = None) -> None:
        """Start an owner's client; user: as the user of that number (`separate_users`)."""
        command = [sys.executable, "-m", "incr_core.commands.cli", "client", f"{owner}/{owner}.toml"]
        command += ["--superlink", self.address, *more]
        self.starts(owner, command if user is None else as_user(user, command))

    def supernode(self, owner: str) -> None:
        """Start Flower's own SuperNode for an owner: it starts a process for every message."""
        named = f"--node-config=client='{self.folder / owner / f'{owner}.toml'}'"
        command = [str(BIN / "flower-supernode"), "--insecure", f"--superlink={self.address}", named]
        self.starts(owner, [*command, f"--port={free_port()}"])

    def kills_all_of(self, name: str) -> None:
        """SIGKILL, to a process and to those that it has started."""
        process = self.processes.pop(name)
        kill_all_of(process)
        process.wait()

    def server(self, *settings: str, out: str = "run") -> subprocess.Popen[bytes]:
        """Start the server's command."""
        wanted = [f"federated.superlink={self.address}", "federated.min_clients=3", *settings]
        changes = [part for setting in wanted for part in ("--set", setting)]
        command = [sys.executable, "-m", "incr_core.commands.cli", "run", "job.toml", "--on", "federated"]
        return self.starts("server", [*command, *changes, "--out", out, "--quiet"])

    def kills(self, name: str) -> None:
        """SIGKILL."""
        self.processes[name].kill()
        self.processes.pop(name).wait()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def summary(self, out: str = "run") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / out / "summary.json").read_text())
        return found

    def versions(self, out: str = "run") -> int:
        """How many versions there are."""
        folder = self.folder / out / "versions"
        return sum(path.name.isdigit() for path in folder.iterdir()) if folder.exists() else 0

    def close(self) -> None:
        for found in self.processes.values():
            found.send_signal(signal.SIGTERM)
        for found in self.processes.values():
            try:
                found.wait(30)
            except subprocess.TimeoutExpired:
                found.kill()
                found.wait()
            with suppress(ProcessLookupError):  # what it has started, and left
                os.killpg(found.pid, signal.SIGKILL)
