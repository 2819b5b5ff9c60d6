"""A grid whose clients live in this process: fast, and able to misbehave on purpose."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path

from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from federated import _resident_clients as residents
from federated._client_batches import workers_of
from federated._client_names import clients_of
from federated._client_process import Worker
from federated._flower_privates import Run, be_server_of, run_numbered
from federated._message_batching import Envelope, unwrap, wrap
from federated.client_app import app as incr_app
from federated.engine import FederatedEngine
from incr_core.job import Job
from tests.support.federated_runs import MakeEngine

_runs = count(1_000_000)


class InProcessGrid(Grid):
    """clients: how many. shuffle: a seed for answering in a random order. forgetful: every message meets a process in
    which no client stays. lose: messages that get no reply. workers: how many share the clients, as the job's
    batches of clients allow; of several, each is asked in a call of its own.
    """

    def __init__(
        self,
        clients: int,
        *,
        app: ClientApp = incr_app,
        shuffle: int | None = None,
        forgetful: bool = False,
        lose: Callable[[Message], bool] = lambda message: False,
        workers: int = 1,
    ) -> None:
        self._nodes = list(range(11, 11 + clients))
        self._run = run_numbered(next(_runs))
        be_server_of(self._run)
        self._worker = Worker(app, self._run.run_id, self._nodes, {})
        self.workers = workers
        self.workers_of: list[int] = [0] * clients
        self._order = None if shuffle is None else random.Random(shuffle)
        self._forgetful = forgetful
        self._lose = lose
        self._numbers = count()
        self.sent: list[tuple[str, int]] = []

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(reversed(self._nodes))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        asked = list(messages)
        for message in asked:
            message.metadata.__dict__["_message_id"] = str(next(self._numbers))
        if self._order is not None:
            self._order.shuffle(asked)
        envelopes, shared = wrap(asked)
        replies, calls = [], dict[int, list[Envelope]]()
        for place, envelope in enumerate(envelopes):
            message = unwrap(envelope, shared)
            self.sent.append((message.metadata.message_type, message.metadata.dst_node_id))
            if not self._lose(message):
                worker = self.workers_of[self._nodes.index(message.metadata.dst_node_id)]
                calls.setdefault(place if self._forgetful else worker, []).append(envelope)
        for call in calls.values():
            if self._forgetful:
                residents.close_all()
            replies += self._worker.answer(call, shared)
        return replies


def on(grid: InProcessGrid) -> MakeEngine:
    """Makes engines whose clients are on this grid."""

    def make(job: Job, folder: Path) -> FederatedEngine:
        grid.workers_of = workers_of(clients_of(job), job.federated, grid.workers)
        return FederatedEngine(job, folder, grid)

    return make
