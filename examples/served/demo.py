"""The closed loop: flights are predicted over HTTP, their labels return after landing, and the model learns them.

    python -m examples.served.demo

There are three processes. `incr serve` answers requests and stores its answers. `incr run --follow` learns the labelled
rows that the server writes, a day at a time, and publishes versions. This process replays February: it requests a
prediction of each flight at its departure and sends the label when it is known. For comparison, the same job reads the
same days from files.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tomli_w
import torch
from rich.console import Console
from rich.table import Table

from examples.flights.prepare import main as prepare
from incr_core.metrics import binary_metrics, binary_statistics

FLIGHTS = Path(__file__).parent.parent / "flights"
INCR = [sys.executable, "-m", "incr_core.commands.cli"]
START = date(2013, 2, 1)
SLOT = timedelta(minutes=10)
"""Time between two requests. Labels known at its beginning are sent, and predictions of flights that depart in it
requested."""

APART, SWAPS = 0.005, 20
"""Maximum difference of the AUC over HTTP from that of files, and minimum number of changes of the champion."""

SETTINGS = ["baselines={}", "publish.every=1", "features.classes=[0, 1]"]
ASKED = [
    *("minute_of_day", "distance", "duration", "carrier", "flight", "origin", "dest", "hour", "weekday"),
    *("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"),
]
"""Return the columns of a flight that are known before it leaves."""


class Client:
    """Requests predictions of flights and sends their labels. It records every answer."""

    def __init__(self, url: str) -> None:
        self._address = url.removeprefix("http://").strip()
        self.connect()
        self.requests = 0
        self.told = 0
        self.versions: list[int] = []
        self.answers: list[float] = []
        self.labels: list[int] = []

    def connect(self) -> None:
        """Connect again: the server closes a connection that is idle for some seconds."""
        self._connection = http.client.HTTPConnection(self._address, timeout=600)

    def ask(self, path: str, document: Any = None) -> Any:
        """Return the answer to a request, which must be given."""
        body = None if document is None else json.dumps(document)
        self._connection.request("GET" if body is None else "POST", path, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        read = answer.read()
        self.requests += 1
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status}: {read.decode()}")
        return json.loads(read) if "json" in answer.headers["Content-Type"] else read.decode()

    def predict(self, flights: Sequence[dict[str, Any]]) -> list[str]:
        """Request predictions of flights; return their ids."""
        rows = [{name: row[name] for name in ASKED} | {"predict_at": row["predict_at"].isoformat()} for row in flights]
        answer = self.ask("/predict", {"rows": rows})
        self.answers += [found["probability"] for found in answer["predictions"]]
        self.labels += [flight["late"] for flight in flights]
        self.versions += [answer["version"]] * len(flights)
        ids: list[str] = answer["ids"]
        return ids

    def tell(self, known: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Send the labels of flights."""
        labels = [
            {
                "id": name,
                "label": row["late"],
                "label_at": row["label_at"].isoformat(),
                "delay_minutes": row["delay_minutes"],
            }
            for name, row in known
        ]
        answer = self.ask("/feedback", {"feedback": labels})
        if answer["accepted"] != len(labels):
            raise SystemExit(f"/feedback: {answer['refused'][0]['reason']}")
        self.told += len(labels)


def replay(
    client: Client, flights: pa.Table, days: int, learned: int, out: Path, running: subprocess.Popen[str]
) -> None:
    """Request predictions of the flights of some days and send their labels, each when its time has come.

    Labels known by midnight are learned by the version that answers on the next day. The server writes them when the
    first label of that day arrives.

    Args:
        learned: Rows that are learned before the first day.
        running: The process that learns.
    """
    rows, due = flights.to_pylist(), 0
    waiting: list[tuple[datetime, str, dict[str, Any]]] = []
    now = midnight = datetime.combine(START, datetime.min.time())
    end = now + timedelta(days=days)
    while now < end or waiting:
        now += SLOT
        asked = []
        while due < len(rows) and rows[due]["predict_at"] < now:
            asked.append(rows[due])
            due += 1
        if asked:
            names = client.predict(asked)
            waiting += [(row["label_at"], name, row) for name, row in zip(names, asked, strict=True)]
        known = [(name, row) for when, name, row in waiting if when < now]
        if known:
            told = client.told
            client.tell(known)
            waiting = [one for one in waiting if one[0] >= now]
            if now > midnight + timedelta(days=1):
                midnight += timedelta(days=1)
                wait_for(client, out, learned + told, running)


def wait_for(client: Client, out: Path, rows: int, running: subprocess.Popen[str]) -> None:
    """Wait until the version that has learned this many rows answers."""
    until(lambda: learned_by(out, rows) is not None, running)
    version = learned_by(out, rows) or 0
    client.connect()
    until(lambda: client.ask("/version")["version"] >= version, running)


def until(holds: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    """Wait until a condition holds, as long as the run continues."""
    while not holds():
        if running.poll() is not None:
            raise SystemExit("the run has ended before its time")
        time.sleep(0.05)


def learned_by(out: Path, rows: int) -> int | None:
    """Return the version by which this many rows are learned; None if there is none yet."""
    try:
        summary = json.loads((out / "summary.json").read_text())
    except FileNotFoundError:
        return None
    return summary["version"] if summary["rows_learned"] >= rows else None


@contextmanager
def process(command: Sequence[str], first: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a process and yield it with the line that begins with `first`, which reports that it is ready; end it
    afterwards."""
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    try:
        line = started.stdout.readline() if first else ""
        if not line.startswith(first):
            raise SystemExit(started.wait())
        yield started, line
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait()
        started.stdout.close()


def job_in(home: Path) -> str:
    """Return the flights job without labels known before landing: the departure delay of flights in the air."""
    document = tomllib.loads((FLIGHTS / "job.toml").read_text())
    document["features"]["rate"] = [rate for rate in document["features"]["rate"] if "known_at" not in rate]
    (home / "job.toml").write_text(tomli_w.dumps(document))
    return str(home / "job.toml")


def settings(path: str) -> list[str]:
    """Return the options of a run on these rows."""
    return [part for setting in [f'stream.path="{path}"', *SETTINGS] for part in ("--set", setting)]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Serve, learn and replay. Then learn the same days from files, and print both results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of data and run directories")
    parser.add_argument("--days", type=int, default=28, help="of February to replay (%(default)s)")
    parser.add_argument("--one-in", type=int, default=1, metavar="N", help="take each Nth flight alone (%(default)s)")
    options = parser.parse_args(arguments)
    prepare(["--out", str(FLIGHTS / "data")])
    home = (options.out / "served").absolute()
    shutil.rmtree(home, ignore_errors=True)
    live, whole, out = home / "rows", home / "files", home / "run"
    live.mkdir(parents=True)
    whole.mkdir()
    begin = datetime.combine(START, datetime.min.time())
    for path in sorted((FLIGHTS / "data").glob("2013-0[12]-*.parquet")):
        table = pq.read_table(path)
        table = table.take(np.arange(0, len(table), options.one_in))
        pq.write_table(table, whole / path.name)
        if path.stem < str(START):  # later labels would move the run into February before the predictions are requested
            pq.write_table(table.filter(pc.less(table["label_at"], begin)), live / path.name)
    end = str(START + timedelta(days=options.days))
    for path in whole.glob("*.parquet"):
        if path.stem >= end:
            path.unlink()
    january = sum(pq.read_metadata(path).num_rows for path in live.glob("*.parquet"))
    flights = pa.concat_tables([pq.read_table(path) for path in sorted(whole.glob("2013-02-*.parquet"))])
    flights = flights.sort_by("predict_at")

    job = job_in(home)
    follow = [*INCR, "run", job, "--follow", "--quiet", "--out", str(out), *settings(str(live))]
    serve = [*INCR, "serve", str(out), "--port", "0", "--journal", str(home / "journal"), "--labelled", str(live)]
    with process(follow, "") as (running, _):
        until(lambda: learned_by(out, january) is not None, running)
        with process([*serve, "--join-every", "0.1"], "serving") as (_, line):
            client = Client(line.split()[-1])
            began = time.perf_counter()
            replay(client, flights, options.days, january, out, running)
            seconds = time.perf_counter() - began
            metrics = client.ask("/metrics")
    swaps = next(int(one.split()[1]) for one in metrics.splitlines() if one.startswith("incr_swaps_total "))
    offline = [*INCR, "run", job, "--json", "--out", str(home / "offline"), *settings(f"{whole}/*.parquet")]
    done = subprocess.run(offline, stdout=subprocess.PIPE, text=True, check=True)
    answered = binary_statistics(torch.tensor(client.answers), torch.tensor(client.labels))
    found = {
        "served": binary_metrics(answered)["auc"],
        "offline": json.loads(done.stdout)["prequential"]["auc"],
        "asked": len(flights),
        "answered": len(client.answers),
        "told": client.told,
        "joined": sum(pq.read_metadata(path).num_rows for path in live.glob("feedback-*.parquet")),
        "learned": json.loads((out / "summary.json").read_text())["rows_learned"] - january,
        "swaps": swaps,
        "requests": client.requests,
        "seconds": seconds,
    }
    console = Console()
    table = Table(title="late flights of February, predicted at departure time")
    for column in ("", "AUC", "predictions", "labels joined", "learned", "swaps", "requests", "seconds"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    told = [f"{found[name]:,}" for name in ("answered", "joined", "learned", "swaps", "requests")]
    table.add_row("asked over HTTP", f"{found['served']:.4f}", *told, f"{seconds:,.1f}")
    table.add_row("read from files", f"{found['offline']:.4f}")
    console.width = max(console.width, 100)
    console.print(table)
    apart = abs(found["served"] - found["offline"])
    console.print(f"AUC apart by {apart:.4f} (target: {APART}), {swaps} swaps (target: {SWAPS})")
    if options.days >= SWAPS and options.one_in == 1 and not (apart <= APART and swaps >= SWAPS):
        raise SystemExit(1)
    return found


if __name__ == "__main__":
    main()
