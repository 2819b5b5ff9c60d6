"""Keep a PyTorch model current.

The update rule is a `Learner`: a model, an objective, an optimiser and strategies. A `Job` names them and a stream;
`run` runs it in one process, on Ray actors, or inside Flower clients.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from incr_core.batch import Batch
    from incr_core.commands.forget import forget
    from incr_core.commands.run import run
    from incr_core.errors import IncrError
    from incr_core.job import Job
    from incr_core.learner import Learner
    from incr_core.objectives import Binary, Multiclass, Objective, Regression
    from incr_core.strategies import EWC, Replay, Strategy

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
    "forget",
    "run",
]

_HOMES = {
    "batch": ["Batch"],
    "commands.forget": ["forget"],
    "errors": ["IncrError"],
    "job": ["Job"],
    "learner": ["Learner"],
    "objectives": ["Binary", "Multiclass", "Objective", "Regression"],
    "commands.run": ["run"],
    "strategies": ["EWC", "Replay", "Strategy"],
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: torch takes seconds that `incr --help` need not wait."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"incr_core.{module}"), name)
    raise AttributeError(f"module 'incr_core' has no attribute {name!r}")
