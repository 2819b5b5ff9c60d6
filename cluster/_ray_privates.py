"""Functions of Ray that have only private names. Tested with Ray 2.55.

They report whether a node is being drained, for example after a notice of preemption, and whether an actor that has not
started waits for room or is starting. `ray.nodes()` does not report the first. `ray list nodes` and `ray list actors`
need a dashboard. Ray's own libraries use the same private functions.
"""

from __future__ import annotations

from typing import Any

import ray
from ray._private.state import state

from incr_core.errors import IncrError

__all__ = ["draining_nodes", "is_placed"]

TESTED = "2.55"


def draining_nodes() -> set[str]:
    """Ids of the nodes that are being drained. Ray places nothing new on them, and they leave soon."""
    return set(state.get_draining_nodes())


def is_placed(actor: Any) -> bool:
    """Return whether an actor has a process on a node: it runs or is starting."""
    found = state.actor_table(actor._actor_id.hex())
    return bool(found) and bool(found["Address"]["Port"])


def _check() -> None:
    """Import a private name of Ray. Raises IncrError if this version of Ray has it elsewhere."""
    for name in ("get_draining_nodes", "actor_table"):
        if not hasattr(state, name):
            raise IncrError(
                f"ray {ray.__version__}: expected its private name {name}, found none; "
                f"incr was tested with Ray {TESTED}: pip install 'ray=={TESTED}.*'"
            )


_check()
