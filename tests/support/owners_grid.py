"""A grid of owners in this process, each with a client's file: they come, go, die and answer in vain as told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Self

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from federated._flower_privates import Run, be_server_of, run_numbered
from federated._message_batching import unwrap, wrap
from federated._owner import Owner
from federated.client_app import app
from federated.engine import FederatedEngine
from incr_core.job import Job

_runs = count(2_000_000)

BEFORE, AFTER = "before", "after"
"""When a message is lost: before its client has heard of it, or on the way back."""


def quietly(what: str) -> None:
    """Say nothing."""


class OwnersGrid(Grid):
    """files: of the clients that are there at first. forgetful: every message meets a new process.

    lost: says of a message and its client's name whether it is lost, BEFORE or AFTER; None: it is not.
    spoils: may change an answer on its way.

        with OwnersGrid(files) as grid:
            finish(job, folder, grid.engine)
    """

    def __init__(
        self,
        files: Iterable[Path],
        *,
        forgetful: bool = False,
        lost: Callable[[Message, str], str | None] = lambda message, name: None,
        spoils: Callable[[Message, str], None] = lambda message, name: None,
    ) -> None:
        self._numbers, self._node_numbers = count(), count(11)
        self.nodes = {next(self._node_numbers): file for file in files}
        self.forgetful, self.lost, self.spoils = forgetful, lost, spoils
        self._run = run_numbered(next(_runs))
        be_server_of(self._run)
        self._replies: dict[str, Message] = {}
        self.sent: list[tuple[str, str]] = []
        self.engines: list[FederatedEngine] = []

    def engine(self, job: Job, folder: Path) -> FederatedEngine:
        """Make an engine whose clients are on this grid."""
        self.engines.append(FederatedEngine(job, folder, self))
        return self.engines[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def joins(self, file: Path) -> int:
        """Another node."""
        node = next(self._node_numbers)
        self.nodes[node] = file
        return node

    def dies(self, name: str) -> None:
        """The process of a client is killed, and its node is gone."""
        for node, file in list(self.nodes.items()):
            if file.stem == name:
                del self.nodes[node]
                self._kill(file)

    def _kill(self, file: Path) -> None:
        if (owner := Owner._owners.get(str(file))) is not None:
            owner.close()

    def close(self) -> None:
        """Let go of all owners."""
        for file in self.nodes.values():
            self._kill(file)

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
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        sent = []
        for message in list(messages):
            message.metadata.__dict__["_message_id"] = str(next(self._numbers))
            sent.append(message.metadata.message_id)
            self._deliver(message)
        return sent

    def _deliver(self, message: Message) -> None:
        file = self.nodes.get(message.metadata.dst_node_id)
        if file is None:
            return
        name, kind = file.stem, message.metadata.message_type
        self.sent.append((kind, name))
        fate = self.lost(message, name)
        if fate == BEFORE:
            return
        envelopes, shared = wrap([message])
        Owner.of(str(file), quietly)
        context = Context(self._run.run_id, message.metadata.dst_node_id, {"client": str(file)}, RecordDict(), {})
        reply = app(unwrap(envelopes[0], shared), context)
        if self.forgetful:
            self._kill(file)
        self.spoils(reply, name)
        if fate != AFTER:
            self._replies[message.metadata.message_id] = reply

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(sent) for sent in list(message_ids) if sent in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))
