"""Replicas that exchange without Ray: threads of this process, over the same gloo groups as processes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from cluster._exchange import ReplicaExchange

__all__ = ["in_each"]

Result = TypeVar("Result")


def in_each(replicas: int, do: Callable[[ReplicaExchange], Result], wire: str = "float32") -> list[Result]:
    """What `do` gives in each replica."""
    store = HashStore()

    def one(rank: int) -> Result:
        # The group of threads is built like that of processes, and needs no global state.
        group = dist.ProcessGroupGloo(store, rank, replicas, timedelta(seconds=20))
        return do(ReplicaExchange(group, rank, replicas, wire=wire))

    with ThreadPoolExecutor(replicas) as pool:
        return list(pool.map(one, range(replicas)))
