"""Over what workers exchange, by the devices that they have."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from cluster._rank import Rank
from incr_core.errors import JobError

__all__ = ["backend_among", "backend_for", "device_here", "require_own"]


def backend_for(devices: Sequence[str]) -> str:
    """NCCL where each worker has a GPU of its own, and gloo where there is none, or several share one, which NCCL
    refuses.

    devices: of each worker, `device_here`.

    >>> backend_for(["GPU-1", "GPU-2"]), backend_for(["GPU-1", "GPU-1"]), backend_for(["", ""])
    ('nccl', 'gloo', 'gloo')
    """
    return "nccl" if all(devices) and len({*devices}) == len(devices) else "gloo"


def device_here(device: str) -> str:
    """The GPU that a worker of this process has, by a name that no other has; empty where it has none.

    device: what the job says, "cuda" or "cuda:1".

    >>> device_here("cpu")
    ''
    """
    return str(torch.cuda.get_device_properties(torch.device(device)).uuid) if device.startswith("cuda") else ""


def backend_among(store: Store, rank: int, size: int, device: str, patience: timedelta) -> tuple[str, list[str]]:
    """What all members of a group come to, and their devices, which they tell one another through a store."""
    if not device.startswith("cuda"):
        return "gloo", [""] * size
    store.set(f"device {rank}", device_here(device))
    names = [f"device {peer}" for peer in range(size)]
    store.wait(names, patience)
    devices = [store.get(name).decode() for name in names]
    return (backend_for(devices) if dist.is_nccl_available() else "gloo"), devices


def require_own(rank: Rank, devices: Sequence[str]) -> None:
    """JobError where shards of a replica share a GPU: nothing is gained by that, and FSDP's messages need NCCL.

    >>> require_own(Rank(0, 1, 0, 2), ["GPU-1", "GPU-1"])
    Traceback (most recent call last):
    ...
    incr_core.errors.JobError: cluster.shards: expected a GPU for each of the 2 shards of replica 0, got 1 for all of
    them; lower cluster.shards, or leave cluster.gpus at 1
    """
    if len({*devices}) < len(devices):
        raise JobError(
            f"cluster.shards: expected a GPU for each of the {rank.shards} shards of replica {rank.replica}, got "
            f"{len({*devices})} for all of them; lower cluster.shards, or leave cluster.gpus at 1"
        )
