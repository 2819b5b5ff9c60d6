"""Simulated clients whose rows a file lists: `federated.clients = "list:FILE"`."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np

from federated._simulated_client import Client
from incr_core.data.timeline import ByList
from incr_core.errors import JobError
from incr_core.job import Job

__all__ = ["listed_clients"]


def listed_clients(job: Job, path: str) -> list[Client]:
    """Return the clients of a list that `deal` has written, by its numbers.

    Raises:
        JobError: The file cannot be read, or lists a row twice or a client without rows.
    """
    place = Path(job.root, path).absolute()
    try:
        digest = sha256(place.read_bytes()).hexdigest()
        ids, owners = ByList(0, 1, str(place), digest).read()
    except (OSError, ValueError, KeyError) as error:
        raise JobError(
            f"federated.clients: expected a Parquet file with the columns row and client, got {place} "
            f"({type(error).__name__}); write it with federated.deal"
        ) from error
    if len(np.unique(ids)) != len(ids):
        raise JobError(f"federated.clients: {place}: expected each row once, got some twice; deal the rows again")
    counts = np.bincount(owners) if len(owners) and owners.min() >= 0 else np.zeros(1, np.int64)
    if not counts.all():
        raise JobError(
            f"federated.clients: {place}: expected rows for each client from 0 to {len(counts) - 1}, got none for "
            f"client {int(np.flatnonzero(counts == 0)[0])}; deal the rows to fewer clients"
        )
    return [
        Client(f"client-{index}", index, ByList(index, len(counts), str(place), digest), rows)
        for index, rows in enumerate(counts.tolist())
    ]
