"""A worker: one process in which several clients of a `RayGrid` live, each with its own context.

A parcel is a message taken apart, so that a record which goes to many clients is carried once: its metadata, and by
name its records or, where `shared` holds one, the key under which it lies there.
"""

from __future__ import annotations

import os
import socket
import traceback
from dataclasses import dataclass
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

__all__ = ["Parcel", "Shared", "Worker", "unwrap", "wrap"]

Records = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shared:
    """Stands for the record that lies under this key among the shared ones."""

    key: int


@dataclass(slots=True)
class Parcel:
    """A message taken apart."""

    metadata: Any
    records: Records


def wrap(messages: list[Message]) -> tuple[list[Parcel], dict[int, Any]]:
    """Messages as parcels, and the records that more than one of them holds."""
    seen: dict[int, int] = {}
    for message in messages:
        for record in message.content.values():
            seen[id(record)] = seen.get(id(record), 0) + 1
    shared: dict[int, Any] = {}
    parcels = []
    for message in messages:
        records: Records = {}
        for name, record in message.content.items():
            if seen[id(record)] > 1:
                shared[id(record)] = record
                records[name] = Shared(id(record))
            else:
                records[name] = record
        parcels.append(Parcel(message.metadata, records))
    return parcels, shared


def unwrap(parcel: Parcel, shared: dict[int, Any]) -> Message:
    """The message that `wrap` took apart."""
    records = {
        name: shared[record.key] if isinstance(record, Shared) else record for name, record in parcel.records.items()
    }
    return make_message(metadata=parcel.metadata, content=RecordDict(records))


class Worker:
    """Answer parcels with a ClientApp, each in the context of the node it is for.

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

    def answer(self, parcels: list[Parcel], shared: dict[int, Any]) -> list[Message]:
        """One reply for each parcel; an exception becomes an error reply, as everywhere in Flower."""
        return [self._answer(unwrap(parcel, shared)) for parcel in parcels]

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
