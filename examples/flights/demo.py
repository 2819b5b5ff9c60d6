"""Keep a model of late flights current on three engines, and print the results.

python -m examples.flights.demo          January to March, every engine
python -m examples.flights.demo --full   the whole year, every engine
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from examples.flights.prepare import main as prepare

HERE = Path(__file__).parent
ENGINES = {
    "local": ("one process", []),
    "cluster": ("2 replicas on Ray", ["cluster.replicas=2", "baselines={}"]),
    # Each takes a sixteenth of the steps, and the mean of the airlines moves as far as one of them.
    "federated": (
        "16 airlines on Flower",
        ["federated.clients=carrier", "learner.optimizer.lr=1e-3", "baselines={}"],
    ),
}


def run(engine: str, settings: Sequence[str], out: Path) -> dict[str, Any]:
    """Run the job on an engine; return its summary."""
    command = [sys.executable, "-m", "incr_core.commands.cli", "run", str(HERE / "job.toml"), "--on", engine, "--json"]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run([*command, "--out", str(out)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare the data once, run the engines, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the whole year instead of January to March")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the run directories go")
    options = parser.parse_args(arguments)
    prepare(["--out", str(HERE / "data")])
    months, name = ("*", "flights-year") if options.full else ("2013-0[1-3]-*", "flights")
    path = HERE / "data" / f"{months}.parquet"

    table = Table(title="late flights, predicted at departure time" + (" (the year)" if options.full else ""))
    for column in ("engine", "learners", "AUC", "rows/s", "MB sent", "seconds", "version"):
        table.add_column(column, justify="left" if column in ("engine", "learners") else "right", no_wrap=True)
    for engine, (where, settings) in ENGINES.items():
        out = options.out / f"{name}-{engine}"
        summary = run(engine, [f'stream.path="{path}"', *settings], out)
        auc = summary["prequential"].get("auc")
        table.add_row(
            engine,
            where,
            "-" if auc is None else f"{auc:.4f}",
            f"{summary['rows_per_second']:,.0f}",
            f"{summary['bytes_exchanged'] / 1e6:,.1f}",
            f"{summary['wall_seconds']:,.1f}",
            f"{summary['version']}",
        )
    console = Console()
    console.width = max(console.width, 90)
    console.print(table)
    print(f"report: {options.out / f'{name}-local' / 'report.html'}")


if __name__ == "__main__":
    main()
