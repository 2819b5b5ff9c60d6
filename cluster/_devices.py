"""Backend of the exchange between workers, chosen by their devices."""

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
    """Return "nccl" if each worker has a separate GPU, and "gloo" otherwise, because NCCL rejects shared GPUs.

    Args:
        devices: `device_here` of each worker.

    Example:
        >>> backend_for(["GPU-1", "GPU-2"]), backend_for(["GPU-1", "GPU-1"]), backend_for(["", ""])
        ('nccl', 'gloo', 'gloo')
    """
    return "nccl" if all(devices) and len({*devices}) == len(devices) else "gloo"


def device_here(device: str) -> str:
    """Return a unique name of the GPU that a worker of this process uses; "" if it uses none.

    Args:
        device: Device in the job, "cuda" or "cuda:1".

    Example:
        >>> device_here("cpu")
        ''
    """
    return str(torch.cuda.get_device_properties(torch.device(device)).uuid) if device.startswith("cuda") else ""


def backend_among(store: Store, rank: int, size: int, device: str, patience: timedelta) -> tuple[str, list[str]]:
    """Return the backend for a group, and its members' devices, which the members exchange through a store."""
    if not device.startswith("cuda"):
        return "gloo", [""] * size
    store.set(f"device {rank}", device_here(device))
    names = [f"device {peer}" for peer in range(size)]
    store.wait(names, patience)
    devices = [store.get(name).decode() for name in names]
    return (backend_for(devices) if dist.is_nccl_available() else "gloo"), devices


def require_own(rank: Rank, devices: Sequence[str]) -> None:
    """Raise JobError if shards of a replica share a GPU: sharing saves no memory, and FSDP's messages need NCCL.

    Example:
        >>> require_own(Rank(0, 1, 0, 2), ["GPU-1", "GPU-1"])
        Traceback (most recent call last):
        ...
        incr_core.errors.JobError: cluster.shards: expected a GPU for each of the 2 shards of replica 0, got 1 for all
        of them; lower cluster.shards, or leave cluster.gpus at 1
    """
    if len({*devices}) < len(devices):
        raise JobError(
            f"cluster.shards: expected a GPU for each of the {rank.shards} shards of replica {rank.replica}, got "
            f"{len({*devices})} for all of them; lower cluster.shards, or leave cluster.gpus at 1"
        )
