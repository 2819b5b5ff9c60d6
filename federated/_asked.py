"""The question to a client, and the properties of every answer that follow from the server's own job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from federated._wire import Wire
from incr_core.objectives import Objective

__all__ = ["Asked", "Known", "Refused", "sums_of"]


class Refused(Exception):
    """An answer that is left out, with the reason.

    Attributes:
        silent: Whether there is no answer.
    """

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


@dataclass(frozen=True, slots=True)
class Known:
    """Properties of every client's answers that follow from the server's own job.

    Attributes:
        sums: Number of dimensions of each sum for metrics, by name; empty if they depend on the objective's rows.
        probes: Number of values that each probe reports.
        timed: Whether increments are ticks of a clock.
        step: Rows of an optimiser step, over all its batches; 0 if it is unknown.
        passes: Maximum number of passes over an increment.
        once: Whether rows are counted once for any number of passes, as when passes may stop early.
        slices: Names of the slices.
        trivial: Shape of the sums of trivial predictions; None without them.
    """

    sums: Mapping[str, int] = field(default_factory=dict)
    probes: Sequence[int] = ()
    timed: bool = False
    step: int = 0
    passes: int = 1
    once: bool = False
    slices: frozenset[str] = frozenset()
    trivial: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """The question to a client, as far as its answer must fit it.

    Attributes:
        action: Name of the question.
        anchor: The weights that were sent.
        shared: The strategy state in the description of the model.
        most: Maximum number of rows of the answer.
        generation: Generation of the client.
        known: Properties of every answer.
        wire: Coding of updates; None: weights are sent unchanged.
        rules: Merge rules of the weights.
    """

    action: str
    anchor: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    most: int
    generation: int
    known: Known = Known()
    wire: Wire | None = None
    rules: Mapping[str, str] = field(default_factory=dict)


def sums_of(objective: Objective) -> dict[str, int]:
    """Return the number of dimensions of an objective's sums for metrics, measured on two artificial rows.

    The result is empty if the objective needs other rows.

    Example:
        >>> from incr_core.objectives import Multiclass
        >>> sums_of(Multiclass(4))
        {'sums': 1, 'classes': 2, 'calibration': 2, 'matrix': 2, 'class_scores': 3}
    """
    flat, several, sequence = torch.zeros(2), torch.zeros(2, objective.outputs), torch.zeros(2, 3, objective.outputs)
    tried = [(several, targets) for targets in (flat, flat.long(), flat.double(), several)]
    for outputs, targets in [*tried, (sequence, torch.zeros(2, 3).long())]:
        try:
            measured = objective.measure(objective.predict(outputs), targets)
            return {name: np.ndim(sums) for name, sums in measured.items()}
        except Exception:  # an objective may raise anything on rows of another kind
            continue
    return {}
