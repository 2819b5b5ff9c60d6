"""What the cluster uses of Ray under private names, since it has no public way. Tested with Ray 2.55.

That a node is being drained, as after a notice of preemption, Ray's own libraries learn from here too: `ray.nodes()`
does not tell it, and what `ray list nodes` asks is not there without a dashboard. Nor is what `ray list actors` asks,
which tells whether an actor that is not there yet waits for room or only starts.
"""

from __future__ import annotations

from typing import Any

import ray
from ray._private.state import state

from incr_core.errors import IncrError

__all__ = ["draining_nodes", "is_placed"]

TESTED = "2.55"


def draining_nodes() -> set[str]:
    """The ids of the nodes that are being drained: nothing new is placed on them, and they go soon."""
    return set(state.get_draining_nodes())


def is_placed(actor: Any) -> bool:
    """Whether an actor has been given a process on a node: it is there, or starts."""
    found = state.actor_table(actor._actor_id.hex())
    return bool(found) and bool(found["Address"]["Port"])


def _check() -> None:
    """IncrError where this Ray keeps something elsewhere."""
    for name in ("get_draining_nodes", "actor_table"):
        if not hasattr(state, name):
            raise IncrError(
                f"ray {ray.__version__}: expected its private name {name}, found none; "
                f"incr was tested with Ray {TESTED}: pip install 'ray=={TESTED}.*'"
            )


_check()
