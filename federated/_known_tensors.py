"""Messages without tensors that their receiver has.

    anchor, merged strategy state    server to client: tensors that changed since the last message with them
    update, own strategy state       client to server: tensors that differ from the message's anchor

A client keeps the anchor and the merged strategy state of its last message (`Participant.held`), named by a hash of
their content. A message says from which of them its changes are counted. A client that holds others, as it was started
again, answers that it lacks them, and receives everything. Nothing is rounded: both sides have equal bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping

from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from federated._client_failures import failure
from federated._records import unpack
from incr_core.errors import EngineError
from incr_core.models import same_bits
from incr_core.numerics import FlatLayout
from incr_core.rounds import Participant

__all__ = ["LACKS", "SAME", "Lacks", "answered_with", "digest_of", "equal_to", "received", "tensors_of", "version_of"]

LACKS = "lacks"
"""The record of an answer that asks for all tensors of the message."""

SAME = "same"
"""The record of an answer that names the tensors of the anchor which its own equal."""


class Lacks(EngineError):
    """A message with changes of tensors that this client does not hold."""

    def answer(self, client: str) -> RecordDict:
        """Return the answer that asks for all tensors."""
        return RecordDict({**failure(client, self), LACKS: ConfigRecord({})})


def version_of(key: str) -> str:
    """Return the name of the record beside the tensors `key`: what they are changes of, and what they become."""
    return f"{key} version"


def digest_of(value: Tensor) -> str:
    """Return a hash of a tensor's dtype, shape and bits.

    Example:
        >>> import torch
        >>> digest_of(torch.zeros(2)) == digest_of(-torch.zeros(2)), len(digest_of(torch.zeros(2)))
        (False, 32)
    """
    layout = FlatLayout.of({"": value})
    found = hashlib.sha256(json.dumps(layout.document()).encode())
    for part in layout.content({"": value.detach()}):
        found.update(part)
    return found.hexdigest()[:32]


def received(
    participant: Participant, content: RecordDict, key: str, anchor: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return all tensors that a message stands for, and keep them for the next message.

    Args:
        participant: The client's participant; nothing of it changes if it lacks tensors.
        content: The message.
        key: "anchor" or "shared".
        anchor: The anchor of the same message, for tensors that equal one of it.

    Raises:
        Lacks: The client does not hold the tensors that the message has changes of.
    """
    version = content.config_records[version_of(key)]
    since, held = str(version["since"]), participant.held.get(key)
    if since and (held is None or held["version"] != since):
        raise Lacks(
            f"{key}: expected changes of version {'none' if held is None else held['version']}, which this client "
            "holds, got those of another; send all tensors"
        )
    known = held["tensors"] if since and held is not None else {}
    equal = json.loads(str(version["equal"]))
    tensors = {
        **known,
        **unpack(content.array_records[key], copy=False),
        **{name: (anchor or {})[other] for name, other in equal.items()},
    }
    participant.held[key] = {"version": str(version["version"]), "tensors": tensors}
    return tensors


def equal_to(
    tensors: Mapping[str, Tensor], anchor: Mapping[str, Tensor], coded: Collection[str] = ()
) -> list[tuple[int, str, str]]:
    """Return which tensors have the bits of a tensor of the anchor: their places, their names, and its name.

    Args:
        tensors: The tensors. One without its name in the anchor is compared with all of its shape.
        anchor: The anchor.
        coded: Names of tensors that travel in any case.

    Example:
        >>> import torch
        >>> equal_to({"w": torch.zeros(2), "0.anchor.w": torch.ones(2)}, {"w": torch.ones(2)})
        [(1, '0.anchor.w', 'w')]
    """
    found = []
    for place, (name, value) in enumerate(tensors.items()):
        for other in [name] if name in anchor else anchor:
            if name not in coded and _same(value, anchor[other]):
                found.append((place, name, other))
                break
    return found


def answered_with(
    content: RecordDict,
    key: str,
    tensors: Mapping[str, Tensor],
    anchor: Mapping[str, Tensor],
    coded: Collection[str] = (),
) -> dict[str, Tensor]:
    """Name in an answer the tensors that equal one of the anchor (`equal_to`); return the others, which travel."""
    equal = equal_to(tensors, anchor, coded)
    content.setdefault(SAME, ConfigRecord())[key] = json.dumps(equal)  # type: ignore[index]
    named = {name for _, name, _ in equal}
    return {name: value for name, value in tensors.items() if name not in named}


def tensors_of(content: RecordDict, key: str, anchor: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return all tensors that an answer stands for, in the client's order.

    Args:
        content: The answer, which may come from an untrusted client.
        key: "weights" or "shared".
        anchor: The anchor of the message that was answered.

    Example:
        >>> import torch
        >>> from federated._records import pack
        >>> anchor, content = {"w": torch.ones(2), "seen": torch.tensor(7)}, RecordDict()
        >>> rest = answered_with(content, "weights", {"seen": torch.tensor(7), "w": torch.zeros(2)}, anchor)
        >>> content["weights"] = pack(rest)
        >>> rest, tensors_of(content, "weights", anchor)
        ({'w': tensor([0., 0.])}, {'seen': tensor(7), 'w': tensor([0., 0.])})
    """
    own = unpack(content.array_records[key], copy=False)
    if SAME not in content:
        return own
    names, equal = list(own), json.loads(str(content.config_records[SAME].get(key, "[]")))
    for place, name, _ in equal:
        names.insert(place, name)
    known = {name: anchor[other] for _, name, other in equal}
    return {name: own[name] if name in own else known[name] for name in names}


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have equal bits. Most differ in the first numbers, which are compared first."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    flat, known = one.detach().reshape(-1), other.detach().reshape(-1)
    return same_bits(flat[:16].cpu(), known[:16].cpu()) and same_bits(flat.cpu(), known.cpu())
