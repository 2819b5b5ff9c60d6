"""Keep a PyTorch model current.

The update rule is a `Learner`: a model, an `Objective`, an optimiser and `Strategy`s, which keep a `Memory` of rows. A
`Job` names them and a stream; `run` runs it in one process, on Ray actors, or inside Flower clients, and `open_run` one
of Python objects: both give a `Run`. The rest is in the drawers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from incr_core import data, engines, memories, metrics, models, objectives, strategies, testing
    from incr_core.batch import Batch
    from incr_core.errors import IncrError
    from incr_core.job import Job
    from incr_core.learner import Learner
    from incr_core.memories import Memory
    from incr_core.objectives import Objective
    from incr_core.runs import Run, open_run, run
    from incr_core.strategies import Strategy

__all__ = [
    "Batch",
    "IncrError",
    "Job",
    "Learner",
    "Memory",
    "Objective",
    "Run",
    "Strategy",
    "data",
    "engines",
    "memories",
    "metrics",
    "models",
    "objectives",
    "open_run",
    "run",
    "strategies",
    "testing",
]

_HOMES = {
    "Batch": "batch",
    "IncrError": "errors",
    "Job": "job",
    "Learner": "learner",
    "Memory": "memories",
    "Objective": "objectives",
    "Run": "runs",
    "Strategy": "strategies",
    "open_run": "runs",
    "run": "runs",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: torch takes seconds that `incr --help` need not wait."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"incr_core.{_HOMES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"incr_core.{name}")
    raise AttributeError(f"module 'incr_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names above, which are imported only when they are asked for."""
    return __all__
