"""Messages without the tensors that their receiver has.

    anchor, merged strategy state    server to client: tensors that changed since the last message with them
    update, own strategy state       client to server: tensors that differ from the message's anchor

A client keeps the anchor and the merged strategy state of its last message (`Participant.held`), named by a hash of
their content. A message names the version to which its changes refer. A client that holds another version, after a
restart for example, answers that it lacks the tensors, and receives everything. Nothing is rounded: both sides have
equal bits.
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
"""Record of an answer with the names of its tensors that equal tensors of the anchor."""


class Lacks(EngineError):
    """A message with changes of tensors that this client does not hold."""

    def answer(self, client: str) -> RecordDict:
        """Return the answer that asks for all tensors."""
        return RecordDict({**failure(client, self), LACKS: ConfigRecord({})})


def version_of(key: str) -> str:
    """Return the name of the record beside the tensors `key`. It names the versions before and after the changes."""
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
    """Return all tensors of a message, with those that it leaves out, and keep them for the next message.

    Args:
        participant: The client's participant. It does not change if it lacks tensors.
        content: The message.
        key: "anchor" or "shared".
        anchor: The anchor of the same message, for tensors that equal one of it.

    Raises:
        Lacks: The client does not hold the version to which the changes refer.
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
    """Return the tensors that have the bits of a tensor of the anchor: their places, their names, and its name.

    Args:
        tensors: The tensors. One whose name is not in the anchor is compared with all tensors of its shape.
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
    """Record in an answer the tensors that equal one of the anchor (`equal_to`). Return the others, which travel."""
    equal = equal_to(tensors, anchor, coded)
    before = content.config_records[SAME] if SAME in content else {}
    content[SAME] = ConfigRecord({**before, key: json.dumps(equal)})
    named = {name for _, name, _ in equal}
    return {name: value for name, value in tensors.items() if name not in named}


def tensors_of(content: RecordDict, key: str, anchor: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return all tensors of an answer, with those that it leaves out, in the client's order.

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
    """Return whether two tensors have equal bits.

    The first numbers are compared first, because most tensors differ there.
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    flat, known = one.detach().reshape(-1), other.detach().reshape(-1)
    return same_bits(flat[:16].cpu(), known[:16].cpu()) and same_bits(flat.cpu(), known.cpu())
