"""A Flower `Grid` on Ray: clients stay for the whole run in a few Ray actors, with their models and data.

Flower's engine sends every client's app and state to any free actor, and polls for replies ten times a second. Here a
client always has the same worker. All messages for a worker are one call. A record for many clients is put in Ray's
object store once. Nothing polls. Any Flower ServerApp and strategy runs on it unchanged.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any

import ray
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from cluster.session import Session, require_ray
from federated._client_process import Worker
from federated._flower_privates import SUPERLINK_NODE_ID, ErrorCode, Run, be_server_of, named, run_numbered
from federated._message_batching import wrap
from incr_core.errors import ArgumentError

__all__ = ["RayGrid", "spread"]

FAREWELL = 30.0
"""Seconds to wait for the processes of workers after they were asked to stop."""

_runs = count(1)


class RayGrid(Grid):
    """Flower `Grid` whose clients live in Ray actors.

    They run on this machine, or on the Ray cluster that the process is connected to. Any Flower ServerApp and ClientApp
    runs on it unchanged. Client i has the node number i + 1 and `context.node_config` with `partition-id` i and
    `num-partitions`, as in Flower's simulation. It stays in one process and keeps its `context.state` there. Replies
    are returned in the order of their messages, so sums over them do not depend on timing or on the number of workers.

    A worker that dies takes its clients along: messages to them are answered with an error from then on.

    Args:
        app: ClientApp that answers the messages. Ray copies it to the workers with cloudpickle.
        clients: Number of clients.
        workers: Number of processes, or the process of each client. None starts one for each CPU core.
        config: Run config (`context.run_config`) of the clients and of the ServerApp.
        gpu: Whether clients learn on a GPU. The workers then take equal shares of the GPUs that Ray knows.

    Raises:
        ArgumentError: `clients` or `workers` is below 1.

    Example:
        `client_app` and `server_app` are apps of Flower; docs/federated.md has two that run::

            with RayGrid(client_app, clients=100, config={"num-server-rounds": 3}) as grid:
                context = grid.execute(server_app)
    """

    def __init__(
        self,
        app: ClientApp,
        clients: int,
        workers: int | Sequence[int] | None = None,
        config: Mapping[str, Any] | None = None,
        *,
        gpu: bool = False,
    ) -> None:
        places = _places(clients, workers)
        self._nodes = list(range(1, clients + 1))
        self._worker_of = dict(zip(self._nodes, places, strict=True))
        self._config = dict(config or {})
        self._run = run_numbered(next(_runs))
        self._numbers = count(1)
        self._flying: dict[Any, list[Message]] = {}
        self._landed: dict[str, Message] = {}
        be_server_of(self._run)
        processes = max(places) + 1
        self._session = Session("local", processes)
        # The caller chooses their number. They do not wait for resources that other users of the same Ray hold.
        gpus = share_of(ray.cluster_resources().get("GPU", 0.0), processes) if gpu else 0.0  # type: ignore[no-untyped-call]
        actor = ray.remote(Worker).options(num_cpus=0, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD")
        self._workers: list[Any] = [
            actor.remote(app, self._run.run_id, self._nodes, self._config) for _ in range(processes)
        ]
        self._places: list[Any] = [worker.place.remote() for worker in self._workers]

    def __enter__(self) -> RayGrid:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def execute(self, server: ServerApp) -> Context:
        """Run a ServerApp on these clients, from its beginning to its end.

        Args:
            server: The app. Its `context.run_config` is the grid's `config`.

        Returns:
            The context of the app. Its `state` contains the records that the app has put there.
        """
        context = Context(self._run.run_id, SUPERLINK_NODE_ID, {}, RecordDict(), dict(self._config))
        server(self, context)
        return context

    def close(self) -> None:
        """Stop the workers, wait until they are gone, and stop Ray where this grid started it."""
        there = ray.is_initialized()  # otherwise the calls below would start Ray again
        asked = self._places if there else []
        started, _ = ray.wait(asked, num_returns=len(asked), timeout=0) if asked else ([], [])
        for worker in self._workers if there else ():
            ray.kill(worker)
        deadline = time.monotonic() + FAREWELL
        for place in started:
            while _lives(place) and time.monotonic() < deadline:
                time.sleep(0.01)
        self._workers, self._places = [], []
        self._session.close()

    # -- Flower's Grid -------------------------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Take another run's identity."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run this grid serves."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message. Flower has deprecated this in favour of `Message` itself."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return all clients, always: a lost one answers with an error."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages, one call per worker, and return ids to pull the replies with."""
        waiting = list(messages)
        for message in waiting:
            named(message, f"{self._run.run_id}-{next(self._numbers)}")
        envelopes, shared = wrap(waiting)
        require_ray()
        store = ray.put(shared)
        for index, worker in enumerate(self._workers):
            mine = [place for place, message in enumerate(waiting) if self._worker_of[_node(message)] == index]
            if mine:
                call = worker.answer.remote([envelopes[place] for place in mine], store)
                self._flying[call] = [waiting[place] for place in mine]
        return [message.metadata.message_id for message in waiting]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that have arrived."""
        self._land(timeout=0)
        return [self._landed.pop(sent) for sent in list(message_ids) if sent in self._landed]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and wait for the replies. After `timeout` seconds, return those that have arrived."""
        sent = self.push_messages(messages)
        self._land(timeout)
        return self.pull_messages(sent)

    def _land(self, timeout: float | None) -> None:
        if not self._flying:
            return
        arrived, _ = ray.wait(list(self._flying), num_returns=len(self._flying), timeout=timeout)
        for call in arrived:
            asked = self._flying.pop(call)
            try:
                replies = ray.get(call)
            except ray.exceptions.RayError as error:
                reason = f"its worker is gone: {str(error).splitlines()[0]}"
                replies = [Message(Error(ErrorCode.UNKNOWN, reason), reply_to=message) for message in asked]
            for reply in replies:
                self._landed[reply.metadata.reply_to_message_id] = reply


def _places(clients: int, workers: int | Sequence[int] | None) -> list[int]:
    """Return the worker of each client.

    Raises:
        ArgumentError: There are no clients, or no workers.
    """
    if clients < 1:
        raise ArgumentError(f"clients: expected at least 1, got {clients}")
    if isinstance(workers, Sequence):
        return list(workers)
    found = (os.cpu_count() or 1) if workers is None else workers
    if found < 1:
        raise ArgumentError(f"workers: expected at least 1, got {found}; leave it out for one for each CPU core")
    return [client % min(found, clients) for client in range(clients)]


def spread(sizes: list[int], workers: int) -> list[int]:
    """Return a worker for each client. A greedy choice keeps the number of rows of the busiest worker low.

    Example:
        >>> spread([50, 10, 30, 20], 2)
        [0, 0, 1, 1]
    """
    load: Counter[int] = Counter(dict.fromkeys(range(workers), 0))
    chosen = [0] * len(sizes)
    for client in sorted(range(len(sizes)), key=lambda client: -sizes[client]):
        worker = min(load, key=lambda worker: (load[worker], worker))
        load[worker] += sizes[client]
        chosen[client] = worker
    return chosen


def _lives(place: Any) -> bool:
    """Return whether the worker at this place is a running process of this machine."""
    try:
        machine, process = ray.get(place)
    except ray.exceptions.RayError:  # it died before it reported its place
        return False
    if machine != socket.gethostname():
        return False
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def _node(message: Message) -> int:
    return message.metadata.dst_node_id


def share_of(gpus: float, workers: int) -> float:
    """Return the share of each worker in the GPUs, at most one. Ray counts in ten-thousandths.

    Example:
        >>> share_of(1, 3), share_of(4, 2), share_of(0, 2)
        (0.3333, 1.0, 0.0)
    """
    return min(1.0, int(gpus / workers * 10_000) / 10_000)
