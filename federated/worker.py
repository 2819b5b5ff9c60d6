"""A worker: one process in which several clients of a `RayGrid` live, each with its own context."""

from __future__ import annotations

import os
import socket
import traceback
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from federated.envelope import Envelope, unwrap
from federated.flower_privates import ErrorCode

__all__ = ["Worker"]


class Worker:
    """Answer messages with a ClientApp, each in the context of the node it is for.

    nodes: the node ids of all clients of the grid, in the order of their partitions.
    """

    def __init__(self, app: ClientApp, run: int, nodes: list[int], config: dict[str, Any]) -> None:
        self._app = app
        self._run = run
        self._nodes = nodes
        self._config = config
        self._contexts: dict[int, Context] = {}

    def place(self) -> tuple[str, int]:
        """The machine and the process that the worker is."""
        return socket.gethostname(), os.getpid()

    def answer(self, envelopes: list[Envelope], shared: dict[int, Any]) -> list[Message]:
        """One reply for each message; an exception becomes an error reply, as everywhere in Flower."""
        return [self._answer(unwrap(envelope, shared)) for envelope in envelopes]

    def _answer(self, message: Message) -> Message:
        context = self._context(message.metadata.dst_node_id)
        try:
            return self._app(message, context)
        except Exception as error:
            reason = "".join(traceback.format_exception_only(error)).strip()
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            return Message(Error(code=code, reason=reason), reply_to=message)

    def _context(self, node: int) -> Context:
        if node not in self._contexts:
            place: dict[str, Any] = {"partition-id": self._nodes.index(node), "num-partitions": len(self._nodes)}
            self._contexts[node] = Context(self._run, node, place, RecordDict(), dict(self._config))
        return self._contexts[node]
