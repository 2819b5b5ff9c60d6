"""Process groups of a cluster of R replicas with S shards each.

    inside a replica     torch's default group of its S workers; FSDP shards the model over it
    between replicas     for each shard index one group of R workers, built directly: a process has one default group

Members find one another through the store at which all workers meet (`Rendezvous`). The groups use NCCL if each worker
has a separate GPU (`devices`), and gloo otherwise.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from cluster._devices import backend_among, require_own
from cluster._fsdp_units import check_shardable, kept_whole, units_of
from cluster._rank import Rank
from incr_core.numerics import nccl_group

__all__ = ["between_replicas", "inside_replica", "shard_model"]


def inside_replica(rank: Rank, store: Store, generation: int, device: str, patience: timedelta) -> None:
    """Create torch's default group of the workers of one replica, for the generation in which the replica was formed.

    Raises:
        JobError: The workers need a GPU each and have fewer.
    """
    prefix = PrefixStore(f"{generation}/replica {rank.replica}", store)
    backend, devices = backend_among(prefix, rank.shard, rank.shards, device, patience)
    if device.startswith("cuda"):
        require_own(rank, devices)
    dist.init_process_group(backend, store=prefix, rank=rank.shard, world_size=rank.shards, timeout=patience)


def between_replicas(rank: Rank, store: Store, generation: int, device: str, patience: timedelta) -> Any:
    """Create the group of the workers that hold one shard, for one generation."""
    prefix = PrefixStore(f"{generation}/shard {rank.shard}", store)
    if backend_among(prefix, rank.replica, rank.replicas, device, patience)[0] == "nccl":
        return nccl_group(prefix, rank.replica, rank.replicas, patience)
    return dist.ProcessGroupGloo(prefix, rank.replica, rank.replicas, patience)


def shard_model(model: nn.Module, rank: Rank, device: str) -> nn.Module:
    """Shard a model's parameters over the workers of a replica, in place (FSDP2).

    The layers of every `nn.ModuleList` are gathered one at a time, and the rest of the model at once
    (`units.units_of`).

    Raises:
        JobError: A parameter cannot be sharded.
    """
    # Imported here: the import takes a second, which unsharded workers do not need.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    check_shardable(model)
    units, whole = units_of(model), kept_whole(model)
    for weight in model.parameters():
        weight.data = weight.data.contiguous()  # FSDP takes no other types; the numbers are the same
    mesh = init_device_mesh(device.partition(":")[0], (rank.shards,))
    for unit in units:
        # Whole weights are released after each forward. Without a backward they would hide weights that are adopted
        # later.
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    return model
