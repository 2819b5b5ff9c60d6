"""Who talks to whom: the process groups of a cluster of R replicas with S shards each.

    inside a replica     torch's default group of its S workers; FSDP shards the model over it
    between replicas     for each shard index one group of R workers, built directly: no global state, so it can be
                         built again within milliseconds

All meet at one TCPStore, which lives with the driver: no worker's death takes it away.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

__all__ = ["Place", "Rendezvous", "between_replicas", "inside_replica", "leave", "shard_model", "use_interface_to"]


@dataclass(frozen=True, slots=True)
class Place:
    """Which worker of the cluster: shard `shard` of `shards` of replica `replica` of `replicas`.

    >>> str(Place(1, 2, 0, 1)), str(Place(1, 2, 0, 4))
    ('replica 1', 'shard 0 of replica 1')
    """

    replica: int
    replicas: int
    shard: int
    shards: int

    @property
    def participant(self) -> str:
        """The name of the replica among the run's participants."""
        return f"replica-{self.replica}"

    @property
    def key(self) -> str:
        """The worker's key in the store."""
        return f"alive/{self.replica}/{self.shard}"

    def __str__(self) -> str:
        return f"shard {self.shard} of replica {self.replica}" if self.shards > 1 else f"replica {self.replica}"


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Where the workers of one generation meet."""

    host: str
    port: int
    generation: int
    timeout: timedelta

    @classmethod
    def open(cls, host: str, generation: int, timeout: timedelta) -> tuple[Rendezvous, TCPStore]:
        """Open the meeting place in this process, on one address only; it lasts as long as the store returned.

        >>> meeting, store = Rendezvous.open("127.0.0.1", 0, timedelta(seconds=5))
        >>> store.set("greeting", "hello")
        >>> meeting.join().get("greeting")
        b'hello'
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, 0), family=family)
        port = listener.getsockname()[1]
        store = TCPStore(
            host,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timeout,
            master_listen_fd=listener.detach(),
        )
        return cls(host, port, generation, timeout), store

    def join(self) -> TCPStore:
        """A connection of one's own."""
        return TCPStore(self.host, self.port, is_master=False, wait_for_workers=False, timeout=self.timeout)


def inside_replica(place: Place, meeting: Rendezvous, store: TCPStore, device: str, patience: timedelta) -> None:
    """Make torch's default group of the workers of one replica."""
    prefix = PrefixStore(f"g{meeting.generation}/r{place.replica}", store)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, store=prefix, rank=place.shard, world_size=place.shards, timeout=patience)


def between_replicas(place: Place, meeting: Rendezvous, store: TCPStore, device: str, patience: timedelta) -> Any:
    """Make the group of the workers that hold one shard; None where there is one replica."""
    if place.replicas == 1:
        return None
    prefix = PrefixStore(f"g{meeting.generation}/s{place.shard}", store)
    if device.startswith("cuda"):
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = patience
        return dist.ProcessGroupNCCL(prefix, place.replica, place.replicas, options)
    return dist.ProcessGroupGloo(prefix, place.replica, place.replicas, patience)


def shard_model(model: nn.Module, place: Place, device: str) -> nn.Module:
    """Cut a model's parameters into shards over the workers of a replica, in place (FSDP2).

    The layers of every `nn.ModuleList` are gathered one at a time, the rest of the model at once.
    """
    # Imported here: it costs a second, which unsharded workers need not spend.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.partition(":")[0], (place.shards,))
    layers = [layer for part in model.modules() if isinstance(part, nn.ModuleList) for layer in part]
    for part in [*reversed(layers), model]:
        # Whole weights must not outlive a forward: without a backward they would hide what is adopted afterwards.
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    return model


def leave() -> None:
    """Leave the default group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def use_interface_to(host: str) -> None:
    """Let gloo talk over the interface that leads to `host`, unless the user has chosen one.

    Left alone it takes the address that this host's own name resolves to: often loopback, which others cannot reach.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 1))  # sends nothing; it only asks the routing table
        own = probe.getsockname()[0]
    interface = next((name for _, name in socket.if_nameindex() if _address(name) == own), None)
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def _address(interface: str) -> str | None:
    """The IPv4 address of an interface; None where it has none."""
    ask_for_address = 0x8915  # SIOCGIFADDR
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket.fileno(), ask_for_address, struct.pack("256s", interface.encode()))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])
