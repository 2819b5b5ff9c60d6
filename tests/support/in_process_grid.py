"""A grid whose clients live in this process: fast, and able to misbehave on purpose."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import count

from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from federated import residents
from federated.client_app import app as incr_app
from federated.engine import FederatedEngine
from federated.envelope import unwrap, wrap
from federated.flower_privates import Run, be_server_of, run_numbered
from federated.worker import Worker
from tests.support.federated_runs import MakeEngine

_runs = count(1_000_000)


class InProcessGrid(Grid):
    """clients: how many. shuffle: a seed for answering in a random order. forgetful: every message meets a process in
    which no client is at home. lose: messages that get no reply.
    """

    def __init__(
        self,
        clients: int,
        *,
        app: ClientApp = incr_app,
        shuffle: int | None = None,
        forgetful: bool = False,
        lose: Callable[[Message], bool] = lambda message: False,
    ) -> None:
        self._nodes = list(range(11, 11 + clients))
        self._run = run_numbered(next(_runs))
        be_server_of(self._run)
        self._worker = Worker(app, self._run.run_id, self._nodes, {})
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
        replies = []
        for envelope in envelopes:
            if self._forgetful:
                residents.close_all()
            message = unwrap(envelope, shared)
            self.sent.append((message.metadata.message_type, message.metadata.dst_node_id))
            if not self._lose(message):
                replies += self._worker.answer([envelope], shared)
        return replies


def on(grid: InProcessGrid) -> MakeEngine:
    """Makes engines whose clients are on this grid."""
    return lambda job, folder: FederatedEngine(job, folder, grid)
