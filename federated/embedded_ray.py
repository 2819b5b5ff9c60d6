"""A Ray of our own for simulated clients, or the one that is already there."""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import ray

__all__ = ["ray_leaves_loose_ends", "start_ray", "stop_ray"]

OBJECT_STORE = 200 * 1024 * 1024
"""Bytes for what travels between workers; Ray spills to disk beyond it."""


def start_ray(cpus: int) -> bool:
    """Start Ray with `cpus` slots, unless this process is connected to one; returns whether it is ours to stop."""
    if ray.is_initialized():
        return False
    # Ray 2.55 warns of a coming change in how it hides accelerators from workers without any; we ask for the new way.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with ray_leaves_loose_ends():
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE,
        )
    return True


def stop_ray() -> None:
    """Stop the Ray that `start_ray` started."""
    with ray_leaves_loose_ends():
        ray.shutdown()
        gc.collect()


@contextmanager
def ray_leaves_loose_ends() -> Iterator[None]:
    """Bear with Ray while it starts or stops."""
    with warnings.catch_warnings():
        # Ray leaves it to the garbage collector to close /dev/null and to forget its daemons; not ours to mend.
        warnings.simplefilter("ignore", ResourceWarning)
        yield
