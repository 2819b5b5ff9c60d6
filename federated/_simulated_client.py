"""A simulated client: its name, its number, and its part of the common table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from incr_core.data.timeline import Blocks, ByColumn, ByDraw, ByHash, ByList, ByOwners, ByTime, Partition

__all__ = ["Client"]

KINDS: dict[str, type[Partition]] = {
    "column": ByColumn,
    "hash": ByHash,
    "blocks": Blocks,
    "drawn": ByDraw,
    "time": ByTime,
    "list": ByList,
    "owners": ByOwners,
}


@dataclass(frozen=True)
class Client:
    """One client: its name in the run, its number, which seeds it, and its part of the stream.

    Args:
        name: The name.
        index: The number.
        partition: The part of the stream.
        rows: Approximate number of rows, if known. It is used only to choose a worker.

    Example:
        >>> client = Client("carrier=AA", 0, ByColumn("carrier", "AA"))
        >>> Client.from_document(client.document()) == client
        True
    """

    name: str
    index: int
    partition: Partition
    rows: int = field(default=1, compare=False)

    def document(self) -> dict[str, Any]:
        """Return the client as JSON values."""
        return {"name": self.name, "index": self.index, **_document(self.partition)}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Client:
        """Return the client that `document` describes."""
        return cls(document["name"], document["index"], _partition(document))


def _document(partition: Partition) -> dict[str, Any]:
    kind = next(name for name, kind in KINDS.items() if isinstance(partition, kind))
    arguments = {key: value for key, value in asdict(partition).items() if not key.startswith("_")}
    if isinstance(partition, ByOwners):
        arguments["of"] = _document(partition.of)
    return {"kind": kind, "partition": arguments}


def _partition(document: dict[str, Any]) -> Partition:
    arguments = dict(document["partition"])
    if "of" in arguments:
        arguments["of"] = _partition(arguments["of"])
    return KINDS[document["kind"]](**arguments)
