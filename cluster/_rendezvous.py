"""The store at which workers meet, and the network interface over which they reach one another."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from incr_core.errors import EngineError

__all__ = ["Rendezvous", "own_address", "use_interface_to"]


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Meeting place of the workers: a store in the driver's process, so the death of a worker does not end it."""

    host: str
    port: int
    timeout: timedelta

    @classmethod
    def open(cls, host: str, timeout: timedelta) -> tuple[Rendezvous, TCPStore]:
        """Open the store in this process, on one address only. It exists as long as the returned object.

        Raises:
            EngineError: This host does not have the address.

        Example:
            >>> meeting, store = Rendezvous.open("127.0.0.1", timedelta(seconds=5))
            >>> store.set("greeting", "hello")
            >>> meeting.join().get("greeting")
            b'hello'
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
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
        except (OSError, RuntimeError) as error:
            raise EngineError(
                f"cluster: expected to open a port on {host}, where Ray says this host is, got {error}; "
                "start Ray with the address of one of its interfaces (ray start --node-ip-address)"
            ) from error
        return cls(host, port, timeout), store

    def join(self) -> TCPStore:
        """Open a separate connection."""
        return TCPStore(self.host, self.port, is_master=False, wait_for_workers=False, timeout=self.timeout)


def use_interface_to(host: str) -> None:
    """Make gloo use the interface that leads to `host`, unless the user has chosen one.

    By default gloo takes the address to which the host's own name resolves, often loopback, which other hosts cannot
    reach.
    """
    own = own_address(host)
    interface = next((name for _, name in socket.if_nameindex() if _address(name) == own), None)
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def own_address(host: str) -> str:
    """Address of this host on the interface that leads to `host`.

    Example:
        >>> own_address("127.0.0.1")
        '127.0.0.1'
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 1))  # sends nothing; only reads the routing table
        return str(probe.getsockname()[0])


def _address(interface: str) -> str | None:
    """IPv4 address of an interface; None if it has none."""
    ask_for_address = 0x8915  # SIOCGIFADDR
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket.fileno(), ask_for_address, struct.pack("256s", interface.encode()))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])
