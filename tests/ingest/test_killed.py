"""A server of Arrow Flight that is killed at random moments: every row that was sent is learned exactly once."""

from __future__ import annotations

import json
import random
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyarrow import flight

from incr_core.ingest import IngestWriter
from incr_core.runs import Run
from tests.support.ingested import audited, follows, ingesting, landed, numbered
from tests.support.ports import free_port
from tests.support.processes import trainer, wait_until

SIZE = 5
"""Rows of a batch."""


class Client(threading.Thread):
    """A writer that sends batch after batch until it is asked to end, and then waits for the acknowledgements."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.enough = threading.Event()
        self.writer = IngestWriter(address, "people", "sensor", patience=300)
        self.rows = 0
        self.fault: Exception | None = None
        self._table = numbered(20_000)

    def run(self) -> None:
        try:
            with self.writer:
                while not self.enough.is_set():
                    self.writer.write(self._table.slice(self.rows, SIZE))
                    self.rows += SIZE
                    time.sleep(0.005)
        except Exception as error:
            self.fault = error


def repeat(address: str, batches: int) -> None:
    """Send the first batches of the writer again under their numbers; each must be acknowledged."""
    table = numbered(20_000)
    with flight.connect(address) as client:
        path = flight.FlightDescriptor.for_path("people", "sensor")
        writer, reader = client.do_put(path, table.schema)
        for number in range(batches):
            (batch,) = table.slice(number * SIZE, SIZE).to_batches()
            writer.write_with_metadata(batch, str(number + 1).encode())
        writer.done_writing()
        acknowledged = 0
        while acknowledged < batches:
            acknowledged = int(json.loads(reader.read().to_pybytes())["sequence"])
        writer.close()


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.chaos)])
def test_rows_sent_to_a_killed_server_are_learned_once(kills: int, tmp_path: Path) -> None:
    draw, port, folder = random.Random(kills), free_port(), tmp_path / "data"
    options = ["--port", str(port), "--linger", "0.01"]
    job = follows(folder / "people", tmp_path / "job.toml")
    with ExitStack() as ends:
        client = learning = None
        for _ in range(kills):
            with ingesting(folder, *options) as (process, address):
                if client is None:
                    client = Client(address)
                    client.start()
                seen, writer = client.writer.landed, client.writer
                wait_until(lambda: writer.landed > seen, process)  # noqa: B023
                learning = learning or ends.enter_context(trainer(job, tmp_path / "run"))
                time.sleep(draw.uniform(0.0, 0.5))
                process.kill()
                process.wait()
        assert client is not None
        with ingesting(folder, *options) as (_, address):
            repeat(address, client.writer.landed)  # as if their acknowledgements had been lost
            client.enough.set()
            client.join()
        assert client.fault is None
        assert landed(folder / "people") == list(range(client.rows))
        wait_until(lambda: Run(tmp_path / "run").summary.rows_learned >= client.rows, learning)
    audited(tmp_path / "run", client.rows)
