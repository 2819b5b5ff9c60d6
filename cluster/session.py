"""Connection to a Ray cluster, or to a Ray that this process starts and ends. All of `incr` starts Ray here."""

from __future__ import annotations

import gc
import logging
import os
import platform
import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Set before ray is imported. Otherwise Ray hides the accelerators from workers that request none, and warns of a
# change.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

from incr_core.errors import EngineError, JobError

__all__ = ["Session", "quietly", "require_ray"]

STORE_BYTES = 200_000_000
"""Shared memory of a Ray started here. It carries weights at commits, and nothing else that is large."""

PATIENCE = 10.0
"""Seconds in which a Ray cluster must accept a connection."""

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""An empty SETTINGS frame of HTTP/2 (RFC 9113, 3.4). Client and server both begin with its type, the fourth byte."""

MISMATCH = re.compile(r"Version mismatch: The cluster was started with:\s+Ray: (\S+)\s+Python: (\S+)")
"""Ray's message about a cluster of another version."""

OURS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""Environment of a Ray started here, unless the user has set it: no telemetry, and the priority of this process for
workers, so that their signs of life are on time on a busy host."""


class Session:
    """Attach to a Ray cluster, or start one on this machine.

    A process that is already connected to Ray keeps that connection.

    Args:
        address: "auto" or "host:port"; "local" starts a new Ray even if another one runs here; None means RAY_ADDRESS,
            which `ray job submit` sets, or else a new Ray.
        slots: CPUs that a new Ray declares.

    Raises:
        JobError: There is no Ray at the address.
        EngineError: A new Ray does not start.
    """

    def __init__(self, address: str | None, slots: int) -> None:
        self.started = False
        if ray.is_initialized():
            return
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        with quietly():
            if address == "local":
                _start(slots)
            else:
                _attach(address)
        self.started = True

    @property
    def host(self) -> str:
        """Address under which workers reach this process."""
        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return address

    def close(self) -> None:
        """Disconnect, and stop a Ray that was started here. A connection that existed before remains. May be called
        twice.

        Raises:
            EngineError: Ray does not stop.
        """
        if self.started:
            self.started = False
            with quietly():
                try:
                    ray.shutdown()
                except Exception as error:
                    raise EngineError(
                        f"ray: expected it to stop, got {_told(error)}; commits are intact; `ray stop` on "
                        "this machine ends its remaining processes"
                    ) from error
                gc.collect()


def require_ray() -> None:
    """Raise EngineError if this process is not connected to Ray. Most of Ray's calls would then start a new Ray."""
    if not ray.is_initialized():
        raise EngineError(
            "ray: expected the Ray cluster on which the engine began, got none: something in this process has stopped "
            "it; run the same command again to continue from the last commit"
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Ignore Ray's warnings at its start and stop about files that it leaves to the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _start(slots: int) -> None:
    for setting, value in OURS.items():
        os.environ.setdefault(setting, value)
    try:
        ray.init(
            address="local",  # never a Ray of another user on this machine
            num_cpus=slots,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=STORE_BYTES,
        )
    except Exception as error:  # Ray raises plain Exceptions too, for example when its daemons start slowly
        _leave()
        raise EngineError(
            f"ray: expected a Ray of our own to start on this machine, got {_told(error)}; try again when the machine "
            "is less busy, look at its RAY_ settings, or start one (ray start --head) and name it in cluster.address"
        ) from error


def _attach(address: str) -> None:
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        _leave()
        if told := MISMATCH.search(str(error)):
            raise JobError(
                f"cluster.address: expected Ray {ray.__version__} and Python {platform.python_version()} at "
                f"{address!r}, as on this host, got Ray {told[1]} and Python {told[2]}; install the same on both"
            ) from error
        raise JobError(
            f"cluster.address: expected a Ray cluster at {address!r}, got: {error}; "
            "start one (ray start --head), or leave the address out for one of our own"
        ) from error


def _leave() -> None:
    """Stop what Ray started before it failed. An error of the stop adds no information."""
    with suppress(Exception):
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError if no gRPC server answers at "host:port". Ray would try for minutes."""
    if not (match := re.fullmatch(r"([^/\s]+):(\d+)", address)):
        return
    with socket.create_connection((match[1], int(match[2])), PATIENCE) as connection:
        if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS)
            answer = connection.recv(len(SETTINGS))
            if answer[3:4] != SETTINGS[3:4]:
                raise ConnectionError("a server answers there, but it is not Ray")


def _told(error: BaseException) -> str:
    """Ray's error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason'}"
