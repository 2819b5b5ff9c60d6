"""What a server knows of an answer before it has come: the question, and what its own job says of every answer."""

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
    """An answer that is left out, and why.

    silent: whether there is none.
    """

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


@dataclass(frozen=True, slots=True)
class Known:
    """What a server knows of every client's answers before it has any, from its own job.

    sums: the dimensions of each sum for metrics, by its name; empty where only its objective's rows would tell.
    probes: how many numbers each probe reports. timed: whether increments are ticks of a clock.
    step: rows of an optimiser's step, over all its batches; 0: it cannot be told. passes: over an increment at most.
    once: whether rows are told once, however many passes there were, as where passes stop early. slices: their names.
    trivial: the shape of the sums of trivial predictions; None where there are none.
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
    """What was asked of a client, as far as its answer must fit it.

    anchor: the weights that were sent. shared: the strategy state as the first client has told it. most: how many rows
    the answer may stand for. generation: at which the client was. wire: how it was to code an update, None where not at
    all. rules: how weights merge.
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
    """The dimensions of an objective's sums for metrics, found on two made-up rows; none where it takes other rows.

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
        except Exception:  # whatever it may be that another objective does with them
            continue
    return {}
