"""Keep a PyTorch model current.

The update rule is a `Learner`: a model, an `Objective`, an optimiser and `Strategy`s, some of which keep a `Memory` of
rows. A `Job` names these and a stream. `run` runs a job in one process, on Ray actors, or inside Flower clients;
`open_run` does so with Python objects. Both return a `Run`. Everything else is in the subpackages.
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
    """Import a public name on first use: torch takes seconds, which `incr --help` does not need."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"incr_core.{_HOMES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"incr_core.{name}")
    raise AttributeError(f"module 'incr_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, which are imported on first use."""
    return __all__
