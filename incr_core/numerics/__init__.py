"""Reproducible arithmetic: determinism, seeded randomness, half precision, shards, flat buffers."""

from __future__ import annotations

from incr_core.numerics._blockwise import Blockwise
from incr_core.numerics._coding import WIRES, Coding, coding_of, encode_with_feedback, roundable
from incr_core.numerics._determinism import in_any_order, settle_arithmetic
from incr_core.numerics._draws import draws_nothing, draws_only_from_torch
from incr_core.numerics._dtypes import all_finite, narrowed, refusal_of, stored, unstored, widened
from incr_core.numerics._flat import FlatLayout, FlatTensors, Piece
from incr_core.numerics._functional import Applied, unsharded, whole_weights
from incr_core.numerics._precision import LossScale, Precision
from incr_core.numerics._randomness import GlobalRandomState, OwnChance, global_random_state, rewound, seeded
from incr_core.numerics._sharding import agreed, as_reals, like, load_optimizer, local, optimizer_state, whole
from incr_core.numerics._sparse import as_dense
from incr_core.numerics._top_k import TopK
from incr_core.numerics._torch_privates import (
    BatchNorm,
    RunningNorm,
    ToldOfChanges,
    failed_capture_ended,
    gradient_is_hooked,
    has_pre_hook,
    is_persistent,
    is_stand_in,
    log_softmax_gradient,
    module_is_hooked,
    nccl_group,
    own_buffers,
    step_is_watched,
    tree_flatten,
    tree_leaves,
    tree_unflatten,
    writes,
)

__all__ = [
    "WIRES",
    "Applied",
    "BatchNorm",
    "Blockwise",
    "Coding",
    "FlatLayout",
    "FlatTensors",
    "GlobalRandomState",
    "LossScale",
    "OwnChance",
    "Piece",
    "Precision",
    "RunningNorm",
    "ToldOfChanges",
    "TopK",
    "agreed",
    "all_finite",
    "as_dense",
    "as_reals",
    "coding_of",
    "draws_nothing",
    "draws_only_from_torch",
    "encode_with_feedback",
    "failed_capture_ended",
    "global_random_state",
    "gradient_is_hooked",
    "has_pre_hook",
    "in_any_order",
    "is_persistent",
    "is_stand_in",
    "like",
    "load_optimizer",
    "local",
    "log_softmax_gradient",
    "module_is_hooked",
    "narrowed",
    "nccl_group",
    "optimizer_state",
    "own_buffers",
    "refusal_of",
    "rewound",
    "roundable",
    "seeded",
    "settle_arithmetic",
    "step_is_watched",
    "stored",
    "tree_flatten",
    "tree_leaves",
    "tree_unflatten",
    "unsharded",
    "unstored",
    "whole",
    "whole_weights",
    "widened",
    "writes",
]
