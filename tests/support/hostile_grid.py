"""A grid on which some clients answer with the opposite of what they have learned, ten times as large."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Message

from federated._records import pack, unpack
from tests.support.heard_anchors import HeardAnchors
from tests.support.in_process_grid import InProcessGrid

__all__ = ["HostileGrid"]


class HostileGrid(InProcessGrid):
    """clients: how many; hostile: how many of them, the first ones."""

    def __init__(self, clients: int, hostile: int) -> None:
        super().__init__(clients)
        self._hostile = set(self._nodes[:hostile])
        self._anchors = HeardAnchors()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        asked = list(messages)
        anchors = {message.metadata.dst_node_id: self._anchors.hear(message) for message in asked}
        replies = super().send_and_receive(asked, timeout=timeout)
        for reply in replies:
            node = reply.metadata.src_node_id
            if node in self._hostile and reply.has_content() and asked[0].metadata.message_type == "train.learn":
                anchor = anchors[node]
                learned = unpack(reply.content.array_records["weights"])
                reply.content["weights"] = pack(
                    {
                        name: anchor[name] - 10 * (value - anchor[name]) if value.is_floating_point() else value
                        for name, value in learned.items()
                    }
                )
        return replies
