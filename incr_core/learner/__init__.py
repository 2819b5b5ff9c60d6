"""The update rule: a model, an objective, an optimiser and strategies, in one visible step."""

from __future__ import annotations

from incr_core.learner._early_stopping import EarlyStopping
from incr_core.learner._learner import Learner
from incr_core.learner._optimizers import OPTIMIZERS, OptimizerFactory, fusable, optimizer_named
from incr_core.learner._schedule import SCHEDULES, Schedule

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "EarlyStopping",
    "Learner",
    "OptimizerFactory",
    "Schedule",
    "fusable",
    "optimizer_named",
]
