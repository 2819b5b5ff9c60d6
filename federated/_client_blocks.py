"""Simulated stateless clients: each node is a block of them, and the server draws from the clients of all blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from torch import Tensor

from federated._client_names import clients_of
from federated._grid import spread
from federated._message_records import CLIENTS
from federated._records import pack, told
from federated._simulated_client import Client
from federated._simulated_nodes import SimulatedNodes
from incr_core.data.timeline import ByDraw, ByHash, ByList, ByOwners, ByTime
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.rounds import Arrival

__all__ = ["ClientBlocks", "blocks_of"]


class ClientBlocks(SimulatedNodes):
    """The blocks of `blocks_of`. The clients of a block that are drawn learn as one batch.

    A block is one participant: it has one reader, one learner and one state, and contributes the mean of its clients'
    updates, by rows. So the cost of a round depends on the clients with rows in it, not on the number of all clients.
    """

    def __init__(self, job: Job, directory: Path, grid: Grid | None = None) -> None:
        super().__init__(job, directory, grid)
        first = self.clients[0].partition
        assert isinstance(first, ByOwners)
        self._size = first.size
        self._offers: dict[int, tuple[Tensor, Tensor]] = {}  # block -> clients and their numbers of rows
        self._drawn: list[dict[int, Tensor]] = []  # for each round of the current increment: block -> its drawn clients

    def _of(self, job: Job) -> list[Client]:
        return blocks_of(job)

    def _workers_of(self, workers: int) -> list[int]:
        return spread([client.rows for client in self.clients], workers)

    def batched(self, clients: Sequence[int], orders: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Return the orders unchanged: each block makes batches of its clients."""
        return orders

    def _heard(self, client: int, answer: Mapping[str, Any]) -> None:
        self._offers[client] = answer["offers"]

    def candidates(self, arrivals: Sequence[Arrival]) -> dict[int, int]:
        """The clients of all blocks that have rows to learn."""
        found: dict[int, int] = {}
        for block in self.there:
            clients, rows = self._offers[block]
            found.update(zip(clients.tolist(), rows.tolist(), strict=True))
        return found

    def take_up(self, rounds: list[list[int]], arrivals: Sequence[Arrival]) -> list[list[int]]:
        """Have the blocks take up the rows of the drawn clients. Returns the blocks of each round."""
        self._drawn = [self._by_block(drawn) for drawn in rounds]
        asked = self._by_block(sorted({client for drawn in rounds for client in drawn}))
        records = [_named(clients) for clients in asked.values()]
        for block, answer in self.ask("evaluate.offer", list(asked), records=records).items():
            document = told(answer)
            arrivals[block].rows, arrivals[block].observed = document["rows"], document["observed"]
        return [list(drawn) for drawn in self._drawn]

    def whom(self, participants: Sequence[int], number: int) -> Sequence[Mapping[str, ArrayRecord]]:
        """The clients of each block that are drawn for a round."""
        return [_named(self._drawn[number][block]) for block in participants]

    def _by_block(self, clients: Sequence[int]) -> dict[int, Tensor]:
        """Clients in ascending order, grouped by block."""
        numbers = torch.tensor(clients, dtype=torch.int64)
        blocks, counts = (numbers // self._size).unique_consecutive(return_counts=True)  # type: ignore[no-untyped-call]
        return dict(zip(blocks.tolist(), torch.split(numbers, counts.tolist()), strict=True)) if len(numbers) else {}


def blocks_of(job: Job) -> list[Client]:
    """Return the blocks of the clients that `federated.clients` defines, in their order.

    The number of clients in a block depends on the job alone, so a run has the same bits on any number of workers.

    Raises JobError if the partition does not number its clients.
    """
    clients = clients_of(job)
    first = clients[0].partition
    if not isinstance(first, ByHash | ByDraw | ByTime | ByList):
        raise JobError(
            'federated.stateless: expected numbered clients, "hash:COLUMN:N", "iid:N", "dirichlet:N:ALPHA", '
            '"labels:N:K", "shards:N:S", "quantity:N:ALPHA", "time:N:DURATION" or "list:FILE", got '
            f'federated.clients = "{job.federated.clients}"; of a column, take a hash of it'
        )
    size = min(job.federated.block(len(clients)), len(clients))
    starts = range(0, len(clients), size)
    return [
        Client(
            f"{clients[start].name} to {clients[min(start + size, len(clients)) - 1].name.rpartition('-')[2]}",
            number,
            ByOwners(first, number, size),
            sum(client.rows for client in clients[start : start + size]),
        )
        for number, start in enumerate(starts)
    ]


def _named(clients: Tensor) -> dict[str, ArrayRecord]:
    return {CLIENTS: pack({"clients": clients})}
