"""Whole anchors of messages that carry only what changed, for tests that listen to all of them."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message
from torch import Tensor

from federated._holdings import Holdings
from federated._message_records import ANCHOR
from federated._records import unpack

__all__ = ["HeardAnchors", "carrying"]


class HeardAnchors:
    """The last anchor of each node."""

    def __init__(self) -> None:
        self._heard: dict[int, dict[str, Tensor]] = {}

    def hear(self, message: Message) -> dict[str, Tensor]:
        """The whole anchor that a message stands for; empty where it has none. Hear every message once."""
        if ANCHOR not in message.content.array_records:
            return {}
        node = message.metadata.dst_node_id
        changed = unpack(message.content.array_records[ANCHOR], copy=True)
        self._heard[node] = {**self._heard.get(node, {}), **changed}
        return {name: value.clone() for name, value in self._heard[node].items()}


def carrying(anchor: Mapping[str, Tensor]) -> dict[str, ArrayRecord | ConfigRecord]:
    """The records of a message with this whole anchor."""
    return Holdings(ANCHOR).sending(anchor).records(0)
