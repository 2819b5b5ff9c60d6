"""A Ray to run on: the one that is there, or one of our own that ends with us."""

from __future__ import annotations

import logging
import os
import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Before ray is imported: it would take the accelerators from workers that ask for none, and warn that this will change.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

from incr_core.errors import JobError

__all__ = ["Session"]

STORE_BYTES = 200_000_000
"""Shared memory of our own Ray: it carries weights at commits, and nothing else that is large."""


PATIENCE = 10.0
"""Seconds in which a Ray cluster must take a connection."""


class Session:
    """Attach to a Ray cluster, or start one on this machine.

    address: "auto", "host:port" or None: then RAY_ADDRESS, which `ray job submit` sets; then a Ray of our own.
    workers: how many a Ray of our own must have room for.
    """

    def __init__(self, address: str | None, workers: int) -> None:
        self.started = False
        if ray.is_initialized():
            return
        address = address or os.environ.get("RAY_ADDRESS")
        with _quietly():
            if address is None:
                ray.init(
                    address="local",  # never one that somebody else happens to run here
                    num_cpus=max(workers, os.cpu_count() or 1),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=STORE_BYTES,
                )
            else:
                try:
                    _knock(address)
                    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
                except (OSError, OverflowError, ValueError, RuntimeError) as error:
                    raise JobError(
                        f"cluster.address: expected a Ray cluster at {address!r}, got: {error}; "
                        "start one (ray start --head), or leave the address out for one of our own"
                    ) from error
        self.started = True

    @property
    def host(self) -> str:
        """The address under which workers reach this process."""
        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return address

    def close(self) -> None:
        """Leave the cluster, and end it if it is our own. A Ray that was there before us in this process stays."""
        if self.started:
            self.started = False
            with _quietly():
                ray.shutdown()


def _knock(address: str) -> None:
    """OSError where nobody listens at "host:port": ray itself would go on asking for minutes."""
    if match := re.fullmatch(r"([^/\s]+):(\d+)", address):
        socket.create_connection((match[1], int(match[2])), PATIENCE).close()


@contextmanager
def _quietly() -> Iterator[None]:
    """Ray's own warnings about Ray are no news for our users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
