"""Versions of the common tensors that each client holds, so that a message carries what changed since."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord
from torch import Tensor

from federated._known_tensors import digest_of, version_of
from federated._records import pack

__all__ = ["Holdings", "Sending"]

NOTHING = -1
"""The time at which a client holds nothing."""


class Holdings:
    """Which version of named tensors, the anchor or the merged strategy state, each client holds.

    Time is counted in changes. A tensor has the time of its last change, a client that of the last version it answered:

        sent to client c    tensors n with changed(n) > held(c)

    Bytes are counted by a second time, `counted`, which is part of a commit. A server that is started again sends
    everything once more, and one that is stopped judges more versions. Neither may change the bytes of an increment.

    Args:
        key: Name of the record: "anchor" or "shared".

    Example:
        >>> import torch
        >>> from federated._records import unpack
        >>> holdings, anchor = Holdings("anchor"), {"w": torch.ones(2), "seen": torch.tensor(7)}
        >>> holdings.sending(anchor).accepted(0)
        >>> records = holdings.sending({**anchor, "seen": torch.tensor(8)}).records(0)
        >>> list(unpack(records["anchor"]))
        ['seen']
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._now = 0
        self._changed: dict[str, tuple[str, int]] = {}  # tensor -> hash of its content, time of its last change
        self.held: dict[int, tuple[int, str]] = {}  # client -> time and name of the version
        self.counted: dict[int, int] = {}

    def sending(
        self, tensors: Mapping[str, Tensor], beside: Mapping[str, str] | None = None, *, ahead: bool = False
    ) -> Sending:
        """Return the messages to all clients with these tensors.

        Args:
            tensors: The tensors, all of them.
            beside: Hashes of tensors that the same message carries, with their names; equal ones are not sent again.
            ahead: Whether clients receive them before the increment that counts their bytes.
        """
        digests = {name: digest_of(value) for name, value in tensors.items()}
        changed = [name for name, digest in digests.items() if self._changed.get(name, ("",))[0] != digest]
        if changed:
            self._now += 1
            self._changed.update((name, (digests[name], self._now)) for name in changed)
        return Sending(self, tensors, digests, beside or {}, ahead)

    def changed_since(self, time: int) -> list[str]:
        """The tensors that changed after that time."""
        return [name for name, (_, changed) in self._changed.items() if changed > time]

    @property
    def now(self) -> int:
        """The time of the last change."""
        return self._now

    def forget(self, client: int) -> None:
        """Send everything to this client, which has lost what it held, and count it."""
        self.held.pop(client, None)
        self.counted.pop(client, None)

    def state_dict(self) -> dict[str, Any]:
        """What a commit keeps."""
        return {"now": self._now, "changed": dict(self._changed), "counted": dict(self.counted)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Count on from a commit. What clients hold is not known: each receives everything once."""
        self._now, self.counted = state["now"], dict(state["counted"])
        self._changed = {name: (digest, time) for name, (digest, time) in state["changed"].items()}


class Sending:
    """The messages of one question to several clients, with tensors of one version. See `Holdings.sending`."""

    def __init__(
        self,
        holdings: Holdings,
        tensors: Mapping[str, Tensor],
        digests: Mapping[str, str],
        beside: Mapping[str, str],
        ahead: bool,
    ) -> None:
        self._holdings, self._tensors, self._ahead = holdings, tensors, ahead
        self._equal = {name: beside[digest] for name, digest in digests.items() if digest in beside}
        self.version = hashlib.sha256(json.dumps(list(digests.items())).encode()).hexdigest()[:32]
        self.names = {digest: name for name, digest in digests.items()}
        self._made: dict[tuple[int, str], dict[str, ArrayRecord | ConfigRecord]] = {}

    def records(self, client: int) -> dict[str, ArrayRecord | ConfigRecord]:
        """The records for a client: one object for all that hold the same version."""
        return self._of(*self._holdings.held.get(client, (NOTHING, "")))

    def bytes_ahead(self, client: int) -> int:
        """Bytes of the records that count at another time: those for a client less those that count."""
        if self._ahead:
            return _bytes(self.records(client))
        held, counted = self._holdings.held.get(client, (NOTHING, ""))[0], self._holdings.counted.get(client, NOTHING)
        return 0 if held == counted else _bytes(self.records(client)) - _bytes(self._of(counted, "counted"))

    def accepted(self, client: int) -> None:
        """The client has answered, so it holds this version."""
        self._holdings.held[client] = self._holdings.now, self.version
        if not self._ahead:
            self._holdings.counted[client] = self._holdings.now

    def _of(self, time: int, version: str) -> dict[str, ArrayRecord | ConfigRecord]:
        if (made := self._made.get((time, version))) is None:
            names = [name for name in self._holdings.changed_since(time) if name in self._tensors]
            equal = {name: self._equal[name] for name in names if name in self._equal}
            told = {"since": version, "version": self.version, "equal": json.dumps(equal)}
            key = self._holdings.key
            made = self._made[time, version] = {
                key: pack({name: self._tensors[name] for name in names if name not in equal}),
                version_of(key): ConfigRecord(told),
            }
        return made


def _bytes(records: Mapping[str, ArrayRecord | ConfigRecord]) -> int:
    return sum(record.count_bytes() for record in records.values() if isinstance(record, ArrayRecord))
