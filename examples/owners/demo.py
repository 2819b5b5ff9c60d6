"""Three airports keep a model of late flights current together, and no airport shows its flights to the others.

    python -m examples.owners.demo

Each airport has a folder with its flights of January to March, and a client. A SuperLink of Flower carries their
messages. The same job then runs in a simulation, on one table of all flights, and learns the same model.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from examples.flights.prepare import main as prepare

FLIGHTS = Path(__file__).parent.parent / "flights"
AIRPORTS = ("EWR", "JFK", "LGA")
MONTHS = "2013-0[1-3]-*.parquet"
INCR = [sys.executable, "-m", "incr_core.commands.cli"]
COMMON = ["features.classes=[0, 1]", "baselines={}"]
"""Settings that the job must contain because no process reads the data before the run."""


def make_homes(homes: Path) -> None:
    """Write each airport's flights and its client's file to a folder that only its user can read."""
    shutil.rmtree(homes, ignore_errors=True)
    for airport in AIRPORTS:
        (homes / airport / "flights").mkdir(parents=True)
    columns: list[str] = []
    for path in sorted((FLIGHTS / "data").glob(MONTHS)):
        table = pq.read_table(path)
        columns = table.column_names
        for airport in AIRPORTS:
            mine = table.filter(pc.equal(table["origin"], airport))
            pq.write_table(mine, homes / airport / "flights" / path.name)
    for airport in AIRPORTS:
        # By default an owner withholds figures over fewer than ten rows. Here all are sent, so that the models can be
        # compared.
        told = '[data]\npath = "flights"\nsettle = "0s"\n\n[privacy]\nmin_rows = 1\n\n[columns]\n'
        (homes / airport / f"{airport}.toml").write_text(told + "".join(f'{name} = "{name}"\n' for name in columns))
        (homes / airport).chmod(0o700)


@contextmanager
def federation(homes: Path) -> Iterator[str]:
    """Start a SuperLink and each airport's client, yield the SuperLink's address, and end them all."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        address = f"127.0.0.1:{found.getsockname()[1]}"
    host, port = address.split(":")
    link = [str(Path(sys.executable).with_name("flower-superlink")), "--insecure", "--isolation=process"]
    commands = {"superlink": [*link, f"--host={host}", f"--port={port}"]}
    commands |= {
        name: [*INCR, "client", str(homes / name / f"{name}.toml"), "--superlink", address] for name in AIRPORTS
    }
    quiet = {"FLWR_HOME": str(homes / "flwr"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for name, command in commands.items():
            with open(homes / f"{name}.log", "wb") as log:
                processes.append(subprocess.Popen(command, env=os.environ | quiet, stdout=log, stderr=log))
            while name == "superlink" and not listens(host, int(port)):
                if processes[0].poll() is not None:
                    raise SystemExit(f"the SuperLink has ended: see {homes / 'superlink.log'}")
                time.sleep(0.1)
        yield address
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()


def listens(host: str, port: int) -> bool:
    """Return whether a server listens there."""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def run(out: Path, *settings: str) -> dict[str, Any]:
    """Run the job federated; return its summary."""
    shutil.rmtree(out, ignore_errors=True)
    command = [*INCR, "run", str(FLIGHTS / "job.toml"), "--on", "federated", "--json", "--out", str(out)]
    for setting in (*COMMON, *settings):
        command += ["--set", setting]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def main(arguments: Sequence[str] | None = None) -> None:
    """Give each airport its flights, let them learn together, and compare with a simulation on all flights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of homes and run directories")
    options = parser.parse_args(arguments)
    prepare(["--out", str(FLIGHTS / "data")])
    homes = (options.out / "owners-homes").absolute()
    make_homes(homes)
    with federation(homes) as address:
        deployed = run(options.out / "owners", f"federated.superlink={address}", "federated.min_clients=3")
    simulated = run(
        options.out / "owners-simulated", f"stream.path={FLIGHTS / 'data' / MONTHS}", "federated.clients=origin"
    )
    table = Table(title="late flights, learned by three airports that keep their rows")
    for column in ("where the flights are", "AUC", "rows learned", "seconds", "model"):
        table.add_column(column, justify="left" if column == "where the flights are" else "right", no_wrap=True)
    for where, summary in (("with three owners, over a SuperLink", deployed), ("in one table, simulated", simulated)):
        table.add_row(
            where,
            f"{summary['prequential']['auc']:.4f}",
            f"{summary['rows_learned']:,}",
            f"{summary['wall_seconds']:,.1f}",
            summary["model_sha256"][:12],
        )
    console = Console()
    console.width = max(console.width, 90)
    console.print(table)
    for name, client in deployed["clients"].items():
        print(f"{name}: {client['rows_learned']:,} rows, ledger {client['ledger_sha256'][:12]}")
    print(f"at each owner: incr client {homes / AIRPORTS[0]}/{AIRPORTS[0]}.toml --ledger")


if __name__ == "__main__":
    main()
