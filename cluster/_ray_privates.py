"""What the cluster uses of Ray under private names, since it has no public way. Tested with Ray 2.55.

That a node is being drained, as after a notice of preemption, Ray's own libraries learn from here too: `ray.nodes()`
does not tell it, and what `ray list nodes` asks is not there without a dashboard.
"""

from __future__ import annotations

import ray
from ray._private.state import state

from incr_core.errors import IncrError

__all__ = ["draining_nodes"]

TESTED = "2.55"


def draining_nodes() -> set[str]:
    """The ids of the nodes that are being drained: nothing new is placed on them, and they go soon."""
    return set(state.get_draining_nodes())


def _check() -> None:
    """IncrError where this Ray keeps something elsewhere."""
    if not hasattr(state, "get_draining_nodes"):
        raise IncrError(
            f"ray {ray.__version__}: expected its private name get_draining_nodes, found none; "
            f"incr was tested with Ray {TESTED}: pip install 'ray=={TESTED}.*'"
        )


_check()
