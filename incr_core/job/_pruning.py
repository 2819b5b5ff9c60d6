"""Pruning in a job: one `[[model.adapt]]` describes both the masks of the model and the strategy that decides them."""

from __future__ import annotations

import inspect
from typing import Any

from incr_core._util import build, unknown
from incr_core.errors import JobError
from incr_core.job._file import JobFile
from incr_core.job._section import Named
from incr_core.strategies import Pruning

__all__ = ["arguments_of_masks", "pruning_of"]

PRUNINGS = ("magnitude_pruning", "movement_pruning")
SCHEDULE = tuple(inspect.signature(Pruning).parameters)
"""The arguments that belong to the strategy. All others belong to the masks."""


def arguments_of_masks(step: Named) -> dict[str, Any]:
    """Return the arguments of an adaptation, without those of the pruning schedule.

    Raises:
        JobError: A pruning has an argument that neither the masks nor the schedule have.
    """
    if step.name not in PRUNINGS:
        return step.arguments
    known = ["target", *SCHEDULE]
    for name in step.arguments:
        if name not in known:
            raise JobError(f"model.adapt {step.name}: {unknown('an argument', name, known)}")
    return {name: value for name, value in step.arguments.items() if name not in SCHEDULE}


def pruning_of(job: JobFile) -> Pruning | None:
    """Return the strategy that decides the masks of the model, or None if the job does not prune.

    Raises:
        JobError: The job prunes twice, or personal weights would need masks that no participant shares.
    """
    steps = [step for step in job.model.adapt if step.name in PRUNINGS]
    if not steps:
        return None
    if len(steps) > 1:
        raise JobError(
            f"model.adapt: expected one of {' and '.join(PRUNINGS)}, got {len(steps)}; name several layers in "
            'one: target = ["layers.0", "layers.3"]'
        )
    if job.federated.personal:
        raise JobError(
            f"model.adapt {steps[0].name}: expected no federated.personal, since masks are computed from weights that "
            f"all clients share, got {job.federated.personal}; leave out one of the two"
        )
    given = {name: value for name, value in steps[0].arguments.items() if name in SCHEDULE}
    pruning: Pruning = build(Pruning, given, f"model.adapt {steps[0].name} pruning")
    return pruning
