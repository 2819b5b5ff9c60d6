"""Envelopes: messages taken apart, so that a record which goes to many clients is carried once.

An envelope holds a message's metadata and, by name, its records or, where `shared` holds one, the key under which it
lies there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict

from federated._flower_privates import message_of

__all__ = ["Envelope", "Shared", "unwrap", "wrap"]

Records = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shared:
    """Stands for the record that lies under this key among the shared ones."""

    key: int


@dataclass(slots=True)
class Envelope:
    """A message taken apart."""

    metadata: Any
    records: Records


def wrap(messages: list[Message]) -> tuple[list[Envelope], dict[int, Any]]:
    """Messages in envelopes, and the records that more than one of them holds."""
    seen: dict[int, int] = {}
    for message in messages:
        for record in message.content.values():
            seen[id(record)] = seen.get(id(record), 0) + 1
    shared: dict[int, Any] = {}
    envelopes = []
    for message in messages:
        records: Records = {}
        for name, record in message.content.items():
            if seen[id(record)] > 1:
                shared[id(record)] = record
                records[name] = Shared(id(record))
            else:
                records[name] = record
        envelopes.append(Envelope(message.metadata, records))
    return envelopes, shared


def unwrap(envelope: Envelope, shared: dict[int, Any]) -> Message:
    """The message that `wrap` took apart.

    A shared record is copied, without the arrays in it: a client that changes a record of its message does not change
    the messages of the other clients in its process.
    """
    records = {
        name: shared[record.key].copy() if isinstance(record, Shared) else record
        for name, record in envelope.records.items()
    }
    return message_of(envelope.metadata, RecordDict(records))
