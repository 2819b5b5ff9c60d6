"""The clients of a job: their names, their order, and their rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from federated._listed_clients import listed_clients
from federated._partitioners import PARTITIONERS
from federated._simulated_client import Client
from incr_core.data.timeline import Blocks, ByColumn, ByHash, owners
from incr_core.errors import JobError
from incr_core.job import Job

__all__ = ["clients_of", "joined"]


def clients_of(job: Job) -> list[Client]:
    """Return the clients that `federated.clients` defines, in the order of their shares in every sum.

    "COLUMN" makes one client for each value. "hash:COLUMN:N" makes N clients, each with the values that hash to it.
    "blocks:N" makes N clients with equal shares of a common stream, in blocks of at most batch_size rows.
    `PARTITIONERS` draw rows, such as "dirichlet:N:ALPHA". "list:FILE" takes the clients of a file (`deal`).

    Raises:
        JobError: `federated.clients` has another form, or defines no client.
    """
    kind, *arguments = job.federated.clients.split(":")
    match kind, arguments:
        case "blocks", [count] if count.isdigit() and int(count):
            size = job.learner.batch_size
            return [Client(f"block-{i}", i, Blocks(i, int(count), size)) for i in range(int(count))]
        case "hash", [column, count] if count.isdigit() and int(count):
            return [Client(f"{column}-{i}", i, ByHash(column, i, int(count))) for i in range(int(count))]
        case "list", [_, *_]:
            return listed_clients(job, job.federated.clients.removeprefix("list:"))
        case drawn, [count, *argument] if drawn in PARTITIONERS and count.isdigit() and int(count):
            with suppress(ValueError):
                return PARTITIONERS[drawn](job, int(count), ":".join(argument))
        case column, [] if column:
            found = owners(
                job.source(),
                column,
                format=job.stream.file_format,
                tolerant=job.features.tolerates_bad_files,
                prepare=job.prepare(),
            )
            if not found:
                raise JobError(f'federated.clients: column "{column}" has no rows, so there is no client to learn')
            return [
                Client(f"{column} is null" if value is None else f"{column}={value}", i, ByColumn(column, value), rows)
                for i, (value, rows) in enumerate(found.items())
            ]
    raise JobError(
        'federated.clients: expected a column, "hash:COLUMN:N" or "blocks:N" with N of at least 1, or one of "iid:N", '
        '"dirichlet:N:ALPHA", "labels:N:K", "shards:N:S", "quantity:N:ALPHA", "time:N:DURATION" and "list:FILE", '
        f"got {job.federated.clients!r}"
    )


def joined(known: Sequence[Client], found: Sequence[Client]) -> list[Client]:
    """Return the clients of a resumed run: known ones keep their numbers, and new ones follow.

    Example:
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
