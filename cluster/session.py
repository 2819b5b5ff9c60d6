"""A Ray to run on: the one that is there, or one of our own that ends with us. All of `incr` starts Ray here."""

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

# Before ray is imported: it would take the accelerators from workers that ask for none, and warn that this will change.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

from incr_core.errors import EngineError, JobError

__all__ = ["Session", "quietly", "require_ray"]

STORE_BYTES = 200_000_000
"""Shared memory of our own Ray: it carries weights at commits, and nothing else that is large."""

PATIENCE = 10.0
"""Seconds in which a Ray cluster must take a connection."""

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""An empty SETTINGS frame of HTTP/2 (RFC 9113, 3.4), with whose type, the fourth byte, client and server both begin."""

MISMATCH = re.compile(r"Version mismatch: The cluster was started with:\s+Ray: (\S+)\s+Python: (\S+)")
"""How Ray says that it is another one."""

OURS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""What a Ray of our own is started with, unless the user has set it: no telemetry, and workers as important as we are,
for their signs of life must not come late on a busy host."""


class Session:
    """Attach to a Ray cluster, or start one on this machine.

    address: "auto" or "host:port"; "local" for a Ray of our own whatever else runs here; None: RAY_ADDRESS, which
    `ray job submit` sets, else a Ray of our own. slots: CPUs that a Ray of our own says it has.

    In a process that is connected to a Ray already, that one is used, and left as it was.

    Raises JobError where there is no Ray at the address, EngineError where one of our own does not start.
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
        """The address under which workers reach this process."""
        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return address

    def close(self) -> None:
        """Leave the cluster, and end it if it is our own. A Ray that was there before us in this process stays.

        Raises EngineError where it does not stop. May be called twice.
        """
        if self.started:
            self.started = False
            with quietly():
                try:
                    ray.shutdown()
                except Exception as error:
                    raise EngineError(
                        f"ray: expected it to stop, got {_told(error)}; what was committed is intact; `ray stop` on "
                        "this machine ends what is left of it"
                    ) from error
                gc.collect()


def require_ray() -> None:
    """EngineError where this process is connected to no Ray any more: most of Ray's calls would start another one."""
    if not ray.is_initialized():
        raise EngineError(
            "ray: expected the Ray that the engine began on, got none: something in this process has stopped it; "
            "run the same command again to go on from the last commit"
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Ignore what Ray warns of while it starts and stops: its own affairs, files that it leaves to the collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _start(slots: int) -> None:
    for setting, value in OURS.items():
        os.environ.setdefault(setting, value)
    try:
        ray.init(
            address="local",  # never one that somebody else happens to run here
            num_cpus=slots,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=STORE_BYTES,
        )
    except Exception as error:  # Ray raises bare Exceptions too, such as when its daemons take long to start
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
    """End what was begun before Ray refused to start; that it cannot be ended either adds nothing."""
    with suppress(Exception):
        ray.shutdown()


def _knock(address: str) -> None:
    """OSError where nobody listens at "host:port", or nobody who speaks gRPC: Ray would go on asking for minutes."""
    if not (match := re.fullmatch(r"([^/\s]+):(\d+)", address)):
        return
    with socket.create_connection((match[1], int(match[2])), PATIENCE) as connection:
        if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS)
            answer = connection.recv(len(SETTINGS))
            if answer[3:4] != SETTINGS[3:4]:
                raise ConnectionError("somebody answers there, but not as Ray does")


def _told(error: BaseException) -> str:
    """An error of Ray in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason'}"
