"""Cost of a request to `incr serve`, beside a hand-written FastAPI endpoint around the same torch model.

    python -m benchmarks.serve

Both servers are separate processes on the loopback address. One client that keeps its connections sends requests to
them in turns. The figure is the server's CPU time per request, which is steadier than wall-clock time on a busy
machine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NUMBERS = [f"x{place}" for place in range(8)]
CATEGORIES = ["colour", "shop"]
INCR = ["incr_core.commands.cli", "serve"]
RESULTS = Path(__file__).parent / "results" / "serve.json"


def learned(folder: Path) -> Path:
    """A small run: eight numbers, two categories, hidden layers of 64 and 32."""
    from incr_core.job import Job
    from incr_core.runs import run

    draw = np.random.default_rng(0)
    table = {name: draw.normal(size=2000) for name in NUMBERS}
    words = {name: draw.choice([f"{name} {place}" for place in range(20)], 2000) for name in CATEGORIES}
    pq.write_table(pa.table({**table, **words, "y": draw.integers(0, 2, 2000)}), folder / "rows.parquet")
    document = {
        "stream": {"path": str(folder / "rows.parquet"), "every": 500},
        "features": {"label": "y", "numeric": NUMBERS, "categorical": CATEGORIES},
        "model": {"hidden": [64, 32], "dropout": 0.1},
        "learner": {"objective": "binary"},
    }
    run(Job.from_document(document).resolved(), folder / "run")
    return folder / "run"


def by_hand(directory: str, port: int, *, waits: bool) -> None:
    """The endpoint as one writes it: pydantic checks the rows, the model answers. waits: as `def`, in a thread."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from pydantic import create_model

    from incr_core.runs import Version

    version = Version.load(directory)
    model, hashes, buckets = version.learner.model.eval(), version.job.encoder.hashes, version.job.encoder.buckets
    known: dict[tuple[str, str | None], list[int]] = {}
    numbers: Any = dict.fromkeys(NUMBERS, (float | None, ...))
    texts: Any = dict.fromkeys(CATEGORIES, (str | None, ...))
    row_type: Any = create_model("Row", **numbers, **texts)
    asked: Any = create_model("Asked", rows=(list[row_type], ...))
    app = FastAPI()

    def pair(name: str, value: str | None) -> list[int]:
        found = known.get((name, value))
        if found is None:
            both = hashes[name].of(value)
            found = known[name, value] = [(both & 0xFFFFFFFF) % buckets, (both >> 32) % buckets]
        return found

    def answered(question: Any) -> dict[str, Any]:
        numeric = [[getattr(row, name) for name in NUMBERS] for row in question.rows]
        nan = float("nan")
        inputs = {
            "numeric": torch.tensor([[nan if value is None else value for value in row] for row in numeric]),
            "categorical": torch.tensor(
                [[pair(name, getattr(row, name)) for name in CATEGORIES] for row in question.rows]
            ),
        }
        with torch.no_grad():
            found = model(inputs).reshape(-1).sigmoid().tolist()
        return {"version": version.number, "predictions": [{"probability": value} for value in found]}

    def predict(question: Any) -> dict[str, Any]:
        return answered(question)

    async def predict_at_once(question: Any) -> dict[str, Any]:
        return answered(question)

    endpoint: Any = predict if waits else predict_at_once
    endpoint.__annotations__["question"] = asked
    app.post("/predict")(endpoint)
    torch.set_num_threads(1)
    uvicorn.run(app, port=port, log_level="warning")


@contextmanager
def serving(commands: dict[str, list[str]], port: int) -> Iterator[dict[str, tuple[http.client.HTTPConnection, int]]]:
    """Servers that are started together, each on its port: a connection to it, and its process's id."""
    processes = [
        subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL) for command in commands.values()
    ]
    try:
        yield {
            who: (connected(process, port + place), process.pid)
            for place, (who, process) in enumerate(zip(commands, processes, strict=True))
        }
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def connected(process: subprocess.Popen[bytes], port: int) -> http.client.HTTPConnection:
    """A connection to a process that is starting."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    while True:
        try:
            connection.connect()
            return connection
        except OSError:
            if process.poll() is not None:
                raise SystemExit(f"a server on port {port} ended with {process.returncode}") from None
            time.sleep(0.1)


def cpu(pid: int) -> float:
    """CPU seconds that a process has used, in the kernel too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(connection: http.client.HTTPConnection, body: bytes) -> Any:
    connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    read = answer.read()
    assert answer.status == 200, read
    return json.loads(read)


def bulk(connection: http.client.HTTPConnection, pid: int, rounds: int, rows: int = 50_000) -> int:
    """How many rows of an Arrow stream a server answers for a CPU second."""
    draw = np.random.default_rng(1)
    table: dict[str, Any] = {name: draw.normal(size=rows) for name in NUMBERS}
    table |= {name: draw.choice([f"{name} {place}" for place in range(20)], rows) for name in CATEGORIES}
    sink = pa.BufferOutputStream()
    made = pa.table(table)
    with pa.ipc.new_stream(sink, made.schema) as stream:
        stream.write_table(made)
    body = bytes(sink.getvalue())
    spent = []
    connection.close()
    for _ in range(rounds + 1):
        before = cpu(pid)
        connection.request("POST", "/predict", body, {"Content-Type": "application/vnd.apache.arrow.stream"})
        answer = connection.getresponse()
        read = answer.read()
        assert answer.status == 200, read
        assert pa.ipc.open_stream(read).read_all()["probability"].null_count == 0
        spent.append(cpu(pid) - before)
    return round(rows / median(spent[1:]) / 1000) * 1000


def measured(servers: dict[str, tuple[http.client.HTTPConnection, int]], requests: int, rounds: int) -> dict[str, Any]:
    """What a request costs each of them, and what many rows at once cost ours."""
    row = {name: place / 3 for place, name in enumerate(NUMBERS)} | {name: f"{name} 3" for name in CATEGORIES}
    body = json.dumps({"rows": [row]}).encode()
    answers = {who: ask(connection, body)["predictions"] for who, (connection, _) in servers.items()}
    first, *others = [answer[0]["probability"] for answer in answers.values()]
    assert all(abs(first - other) < 1e-6 for other in others), answers
    spent: dict[str, list[float]] = {who: [] for who in servers}
    for _ in range(rounds + 1):
        for who, (connection, pid) in servers.items():
            connection.close()  # servers close what is idle for some seconds
            ask(connection, body)
            before = cpu(pid)
            for _ in range(requests):
                ask(connection, body)
            spent[who].append((cpu(pid) - before) / requests * 1e3)
    found = {who: round(median(values[1:]), 3) for who, values in spent.items()}  # the first round warms up
    return {
        "CPU ms a request of one row": found,
        "incr costs, times": {who: round(found["incr"] / found[who], 2) for who in found if who.startswith("FastAPI")},
        "requests": requests,
        "rows of Arrow for a CPU second": bulk(*servers["incr"], rounds=rounds * 4),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--by-hand", nargs=3, metavar=("DIR", "PORT", "KIND"), help="be the other server")
    options.add_argument("--requests", type=int, default=1500, help="of a round")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--port", type=int, default=18_700)
    told = options.parse_args()
    if told.by_hand:
        by_hand(told.by_hand[0], int(told.by_hand[1]), waits=told.by_hand[2] == "def")
        return
    with tempfile.TemporaryDirectory() as name:
        run, port = str(learned(Path(name))), told.port
        commands = {
            "incr": [*INCR, run, "--port", str(port)],
            "FastAPI, def": ["benchmarks.serve", "--by-hand", run, str(port + 1), "def"],
            "FastAPI, async def": ["benchmarks.serve", "--by-hand", run, str(port + 2), "async"],
            "incr, journal": [*INCR, run, "--port", str(port + 3), "--journal", f"{name}/journal"],
        }
        with serving(commands, port) as servers:
            result = measured(servers, told.requests, told.rounds)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
