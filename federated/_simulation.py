"""Flower's simulation with reversed control: it lends its `Grid` instead of calling the loop.

`run_simulation` expects a ServerApp whose main contains the whole run, while the loop needs an engine that it can call.
So the simulation runs in a thread, with a ServerApp that hands over its grid and waits until the engine is done.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from cluster.session import Session, quietly
from federated._flower_privates import run_simulation
from incr_core.errors import EngineError

__all__ = ["FlowerSimulation"]


class FlowerSimulation:
    """A running Flower simulation of `clients` nodes on `workers` actors; `grid` reaches them."""

    def __init__(self, app: ClientApp, clients: int, workers: int) -> None:
        self._done = threading.Event()
        self._session = Session("local", workers)
        lent: Queue[Grid | BaseException] = Queue()
        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            lent.put(grid)
            self._done.wait()

        def simulate() -> None:
            try:
                run_simulation(server, app, clients, backend_config={"client_resources": {"num_cpus": 1}})
            except BaseException as error:  # Flower ends a thread by SystemExit too
                lent.put(error)
            else:
                lent.put(RuntimeError("it ended before it lent its grid"))

        self._quiet = _quiet_flower()
        self._quiet.__enter__()
        self._thread = threading.Thread(target=simulate, name="flower simulation", daemon=True)
        self._thread.start()
        found = lent.get()
        if not isinstance(found, Grid):
            self.close()
            raise EngineError(
                f"federated.backend: expected Flower's simulation to start, got {type(found).__name__}: {found}; "
                'try again, or set federated.backend = "grid"'
            ) from found
        self.grid = found

    def close(self) -> None:
        """Let the ServerApp return, and wait for Flower to stop its actors and its Ray."""
        if not self._done.is_set():
            self._done.set()
            with quietly():  # Flower stops Ray itself, in its own thread
                self._thread.join()
            self._quiet.__exit__(None, None, None)
            self._session.close()


@contextmanager
def _quiet_flower() -> Iterator[None]:
    """Suppress Flower's log messages, except for errors.

    They include the advice, at every start, to use `flwr run` instead of `run_simulation`. `flwr run` packages the app
    and starts a separate server, which a loop in this process does not need.
    """
    log = logging.getLogger("flwr")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
