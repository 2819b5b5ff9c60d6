"""Batches of clients that learn together. They depend only on the clients' order, not on the number of workers.

Clients are grouped in blocks of consecutive ones, each in one worker. The members of a block that take part in a round
are divided into batches of at most `federated.batch_clients`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from federated._grid import spread
from federated._simulated_client import Client
from incr_core.job import FederatedSection

__all__ = ["batches_of", "workers_of"]


def batches_of(clients: Sequence[int], size: int, block: int) -> list[int]:
    """Return the number of the batch of each of these clients, which are in order.

    Args:
        clients: Numbers of the clients.
        size: Maximum size of a batch.
        block: Number of consecutive clients that are certainly in one worker.

    Example:
        >>> batches_of([0, 1, 2, 3, 4, 8], size=3, block=4)
        [0, 0, 0, 1, 2, 3]
    """
    found: list[int] = []
    for _, group in groupby(clients, lambda client: client // block):
        number = found[-1] + 1 if found else 0
        found += [number + place // size for place, _ in enumerate(group)]
    return found


def workers_of(clients: Sequence[Client], wanted: FederatedSection, workers: int) -> list[int]:
    """Return the worker of each client. The rows are balanced, and the clients of a batch share a worker."""
    rows = [client.rows for client in clients]
    if not wanted.batch_clients:
        return spread(rows, workers)
    block = wanted.block(len(rows))
    blocks = [sum(rows[start : start + block]) for start in range(0, len(rows), block)]
    found = spread(blocks, min(workers, len(blocks)))
    return [found[place // block] for place in range(len(rows))]
