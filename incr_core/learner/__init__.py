"""The update rule: a model, an objective, an optimiser and strategies, in one visible step."""

from __future__ import annotations

from incr_core.learner._adaptive_passes import MOST_PASSES, passes_after
from incr_core.learner._early_stopping import EarlyStopping
from incr_core.learner._learner import Learner
from incr_core.learner._optimizers import OPTIMIZERS, OptimizerFactory, check_gradients, fusable, optimizer_named
from incr_core.learner._predicting import OF_ROWS, may_be_of_rows
from incr_core.learner._schedule import SCHEDULES, Schedule
from incr_core.learner._stacked import learn_stacked, why_alone
from incr_core.learner._stateless import learn_stateless

__all__ = [
    "MOST_PASSES",
    "OF_ROWS",
    "OPTIMIZERS",
    "SCHEDULES",
    "EarlyStopping",
    "Learner",
    "OptimizerFactory",
    "Schedule",
    "check_gradients",
    "fusable",
    "learn_stacked",
    "learn_stateless",
    "may_be_of_rows",
    "optimizer_named",
    "passes_after",
    "why_alone",
]
