"""Keep a PyTorch model current.

The update rule is a `Learner`: a model, an objective, an optimiser and strategies. A `Job` names them and a stream;
`run` runs it in one process, on Ray actors, or inside Flower clients.
"""

from __future__ import annotations

from incr_core.batch import Batch
from incr_core.errors import IncrError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.objective import Binary, Multiclass, Objective, Regression
from incr_core.run import run
from incr_core.strategies import EWC, Replay
from incr_core.strategy import Strategy

__all__ = [
    "EWC",
    "Batch",
    "Binary",
    "IncrError",
    "Job",
    "Learner",
    "Multiclass",
    "Objective",
    "Regression",
    "Replay",
    "Strategy",
    "run",
]
