"""Updates of one owner, spoiled on their way to the server."""

from __future__ import annotations

from collections.abc import Callable

import torch
from flwr.app import Message

from federated._records import pack, unpack

__all__ = ["SPOILT", "spoiled_by"]

SPOILT = "model.layers.0.weight"


def spoiled_by(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Message, str], None]:
    """Spoils what red has learned."""

    def spoil(reply: Message, name: str) -> None:
        if name == "red" and "weights" in reply.content:
            weights = unpack(reply.content.array_records["weights"], copy=True)
            change(weights)
            reply.content["weights"] = pack(weights)

    return spoil
