"""Envelopes: disassembled messages, so that a record for many clients is transferred once.

An envelope contains a message's metadata and its records by name. A record in `shared` is replaced by its key there.
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
    """Placeholder for the record with this key among the shared ones."""

    key: int


@dataclass(slots=True)
class Envelope:
    """A disassembled message."""

    metadata: Any
    records: Records


def wrap(messages: list[Message]) -> tuple[list[Envelope], dict[int, Any]]:
    """Return messages in envelopes, and the records that occur in more than one of them."""
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
    """Return the message that `wrap` has disassembled.

    A shared record is copied, without the arrays in it: a client that changes a record of its message does not change
    the messages of the other clients in its process.
    """
    records = {
        name: shared[record.key].copy() if isinstance(record, Shared) else record
        for name, record in envelope.records.items()
    }
    return message_of(envelope.metadata, RecordDict(records))
