"""What several strategies are made of: Fisher information, penalties, snapshots, ownership of weights."""

from __future__ import annotations

from incr_core.strategies.mechanisms._fisher import fisher_diagonal, gradients_of_rows, rows_at_once
from incr_core.strategies.mechanisms._ownership import Ownership
from incr_core.strategies.mechanisms._quadratic_penalty import Pull
from incr_core.strategies.mechanisms._rank_window import Recent
from incr_core.strategies.mechanisms._snapshot import Teacher

__all__ = ["Ownership", "Pull", "Recent", "Teacher", "fisher_diagonal", "gradients_of_rows", "rows_at_once"]
