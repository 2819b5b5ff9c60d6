"""Components that strategies share: Fisher information, penalties, snapshots, ownership of weights, ranks."""

from __future__ import annotations

from incr_core.strategies.mechanisms._fisher import fisher_diagonal, gradients_of_rows, rows_at_once
from incr_core.strategies.mechanisms._ownership import Ownership
from incr_core.strategies.mechanisms._quadratic_penalty import QuadraticPenalty
from incr_core.strategies.mechanisms._recent_ranks import RecentRanks
from incr_core.strategies.mechanisms._snapshot import Snapshot

__all__ = [
    "Ownership",
    "QuadraticPenalty",
    "RecentRanks",
    "Snapshot",
    "fisher_diagonal",
    "gradients_of_rows",
    "rows_at_once",
]
