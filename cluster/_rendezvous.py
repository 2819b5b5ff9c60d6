"""Where workers meet, and over which interface they reach one another."""

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
    """Where the workers meet: a store that lives with the driver, so that no worker's death takes it away."""

    host: str
    port: int
    timeout: timedelta

    @classmethod
    def open(cls, host: str, timeout: timedelta) -> tuple[Rendezvous, TCPStore]:
        """Open the meeting place in this process, on one address only; it lasts as long as the store returned.

        EngineError where this host has no such address.

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
        """A connection of one's own."""
        return TCPStore(self.host, self.port, is_master=False, wait_for_workers=False, timeout=self.timeout)


def use_interface_to(host: str) -> None:
    """Let gloo talk over the interface that leads to `host`, unless the user has chosen one.

    Left alone it takes the address that this host's own name resolves to: often loopback, which others cannot reach.
    """
    own = own_address(host)
    interface = next((name for _, name in socket.if_nameindex() if _address(name) == own), None)
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def own_address(host: str) -> str:
    """The address of this host on the interface that leads to `host`.

    >>> own_address("127.0.0.1")
    '127.0.0.1'
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 1))  # sends nothing; it only asks the routing table
        return str(probe.getsockname()[0])


def _address(interface: str) -> str | None:
    """The IPv4 address of an interface; None where it has none."""
    ask_for_address = 0x8915  # SIOCGIFADDR
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket.fileno(), ask_for_address, struct.pack("256s", interface.encode()))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])
