"""Equal arithmetic everywhere: determinism, seeded randomness, half precision, shards."""

from __future__ import annotations

from incr_core.numerics._determinism import settle_arithmetic
from incr_core.numerics._functional import unsharded, whole_weights
from incr_core.numerics._precision import Precision
from incr_core.numerics._randomness import draws_nothing, global_random_state
from incr_core.numerics._sharding import like, load_optimizer, local, optimizer_state, whole

__all__ = [
    "Precision",
    "draws_nothing",
    "global_random_state",
    "like",
    "load_optimizer",
    "local",
    "optimizer_state",
    "settle_arithmetic",
    "unsharded",
    "whole",
    "whole_weights",
]
