"""Who the clients of a job are: their names, their order, and which rows each owns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from incr_core.data.timeline import Blocks, ByColumn, ByHash, Partition, owners
from incr_core.errors import JobError
from incr_core.job import Job

__all__ = ["Client", "clients_of", "joined"]

KINDS: dict[str, type[ByColumn | ByHash | Blocks]] = {"column": ByColumn, "hash": ByHash, "blocks": Blocks}


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


def clients_of(job: Job) -> list[Client]:
    """The clients that `federated.clients` asks for, in the order of their shares in every sum.

    "COLUMN": one client for each of its values. "hash:COLUMN:N": N clients, each with the values that hash to it.
    "blocks:N": N clients that are dealt equal shares of a common stream, in blocks of at most batch_size rows.

    Raises JobError where it asks for something else, or for no client at all.
    """
    kind, *arguments = job.federated.clients.split(":")
    match kind, arguments:
        case "blocks", [count] if count.isdigit() and int(count):
            size = job.learner.batch_size
            return [Client(f"block-{i}", i, Blocks(i, int(count), size)) for i in range(int(count))]
        case "hash", [column, count] if count.isdigit() and int(count):
            return [Client(f"{column}-{i}", i, ByHash(column, i, int(count))) for i in range(int(count))]
        case column, [] if column:
            found = owners(job.source(), column, format=job.stream.format, tolerant=job.features.tolerates_bad_files)
            if not found:
                raise JobError(f'federated.clients: column "{column}" has no rows, so there is no client to learn')
            return [
                Client(f"{column} is null" if value is None else f"{column}={value}", i, ByColumn(column, value), rows)
                for i, (value, rows) in enumerate(found.items())
            ]
    raise JobError(
        f'federated.clients: expected a column, "hash:COLUMN:N" or "blocks:N" with N of at least 1, '
        f"got {job.federated.clients!r}"
    )


def joined(known: Sequence[Client], found: Sequence[Client]) -> list[Client]:
    """The clients of a run that goes on: those it knows keep their numbers, new ones come after them.

    >>> known = [Client("c=a", 0, ByColumn("c", "a")), Client("c=m", 1, ByColumn("c", "m"))]
    >>> found = [known[0], Client("c=b", 1, ByColumn("c", "b")), Client("c=m", 2, ByColumn("c", "m"))]
    >>> [(client.name, client.index) for client in joined(known, found)]
    [('c=a', 0), ('c=m', 1), ('c=b', 2)]
    """
    latest = {client.name: client for client in found}
    names = {client.name for client in known}
    everyone = [latest.get(client.name, client) for client in known]
    everyone += [client for client in found if client.name not in names]
    return [replace(client, index=index) for index, client in enumerate(everyone)]
