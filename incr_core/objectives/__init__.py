"""Objectives: the loss, prediction and metrics of each kind of target."""

from __future__ import annotations

from incr_core._util import Catalogue
from incr_core.objectives._balance import Balance
from incr_core.objectives._base import Binary, Multiclass, Objective, Regression
from incr_core.objectives._blend import Blend
from incr_core.objectives._distillation import distillation_loss
from incr_core.objectives._growing import GrowingMulticlass
from incr_core.objectives._losses import LOSSES, Loss
from incr_core.objectives._multilabel import Multilabel
from incr_core.objectives._next_token import NextToken
from incr_core.objectives._ranking import Ranking

__all__ = [
    "LOSSES",
    "OBJECTIVES",
    "Balance",
    "Binary",
    "Blend",
    "GrowingMulticlass",
    "Loss",
    "Multiclass",
    "Multilabel",
    "NextToken",
    "Objective",
    "Ranking",
    "Regression",
    "distillation_loss",
]

OBJECTIVES: Catalogue[type[Objective]] = Catalogue(
    "an objective",
    {
        "binary": Binary,
        "multiclass": Multiclass,
        "multilabel": Multilabel,
        "next_token": NextToken,
        "ranking": Ranking,
        "regression": Regression,
    },
    "incr.objectives",
)
"""With `features.capacity`, "multiclass" is `GrowingMulticlass`. Objectives of plug-ins take no arguments."""
