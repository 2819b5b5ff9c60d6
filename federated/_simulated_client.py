"""A simulated client: its name, its number, and its part of the one table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from incr_core.data.timeline import Blocks, ByColumn, ByDraw, ByHash, ByTime, Partition

__all__ = ["Client"]

KINDS: dict[str, type[Partition]] = {
    "column": ByColumn,
    "hash": ByHash,
    "blocks": Blocks,
    "drawn": ByDraw,
    "time": ByTime,
}


@dataclass(frozen=True)
class Client:
    """One client: its name in the run, its number, which seeds it, and its part of the stream.

    rows: about how many it has, as far as that is known; only for finding it a worker.

    >>> client = Client("carrier=AA", 0, ByColumn("carrier", "AA"))
    >>> Client.from_document(client.document()) == client
    True
    """

    name: str
    index: int
    partition: Partition
    rows: int = field(default=1, compare=False)

    def document(self) -> dict[str, Any]:
        """The client as JSON-able dictionaries."""
        kind = next(name for name, kind in KINDS.items() if isinstance(self.partition, kind))
        arguments = {key: value for key, value in asdict(self.partition).items() if not key.startswith("_")}
        return {"name": self.name, "index": self.index, "kind": kind, "partition": arguments}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Client:
        """The client that `document` describes."""
        return cls(document["name"], document["index"], KINDS[document["kind"]](**document["partition"]))
