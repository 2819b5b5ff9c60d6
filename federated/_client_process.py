"""A worker: one process with several clients of a `RayGrid`, each with its own context."""

from __future__ import annotations

import os
import socket
import traceback
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from federated._batched_app import Answers, BatchedApp
from federated._flower_privates import ErrorCode
from federated._message_batching import Envelope, unwrap

__all__ = ["Worker"]


class Worker:
    """Answers messages with a ClientApp, each in the context of its node.

    Args:
        app: The ClientApp.
        run: Number of the run.
        nodes: Node ids of all clients of the grid, in the order of their partitions.
        config: Run config of the clients.
    """

    def __init__(self, app: ClientApp, run: int, nodes: list[int], config: dict[str, Any]) -> None:
        self._app = app
        self._run = run
        self._places = {node: place for place, node in enumerate(nodes)}
        self._config = config
        self._contexts: dict[int, Context] = {}

    def place(self) -> tuple[str, int]:
        """Return the machine and the process of the worker."""
        return socket.gethostname(), os.getpid()

    def answer(self, envelopes: list[Envelope], shared: dict[int, Any]) -> list[Message]:
        """Return one reply for each message. An exception becomes an error reply, as elsewhere in Flower."""
        messages = [unwrap(envelope, shared) for envelope in envelopes]
        if not isinstance(self._app, BatchedApp):
            return [self._answer(message) for message in messages]
        replies: list[Message] = []
        for answers, batch in self._app.batches(messages):
            if answers is None:
                replies += [self._answer(message) for message in batch]
            else:
                replies += self._answer_batch(answers, batch)
        return replies

    def _answer(self, message: Message) -> Message:
        context = self._context(message.metadata.dst_node_id)
        try:
            return self._app(message, context)
        except Exception as error:
            return _failed(message, error)

    def _answer_batch(self, answers: Answers, messages: list[Message]) -> list[Message]:
        contexts = [self._context(message.metadata.dst_node_id) for message in messages]
        try:
            return answers(messages, contexts)
        except Exception as error:
            return [_failed(message, error) for message in messages]

    def _context(self, node: int) -> Context:
        if node not in self._contexts:
            place: dict[str, Any] = {"partition-id": self._places[node], "num-partitions": len(self._places)}
            self._contexts[node] = Context(self._run, node, place, RecordDict(), dict(self._config))
        return self._contexts[node]


def _failed(message: Message, error: Exception) -> Message:
    reason = "".join(traceback.format_exception_only(error)).strip()
    return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message)
