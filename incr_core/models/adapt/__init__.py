"""Adaptations of a model before it is learned: choice of trainable weights, and additional layers.

Every adaptation is a function from a model to a model; `ADAPTATIONS` names them for job files:

    [[model.adapt]]
    name = "lora"
    rank = 4
    target = "layers.*"
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from incr_core._util import Catalogue
from incr_core.models.adapt._adapter import adapter
from incr_core.models.adapt._experts import experts
from incr_core.models.adapt._folding import fold_weights
from incr_core.models.adapt._freeze import bitfit, freeze, head_only
from incr_core.models.adapt._heads import task_heads, with_task
from incr_core.models.adapt._lda import StreamingLDA, lda
from incr_core.models.adapt._lora import lora, merge_lora
from incr_core.models.adapt._nearest_mean import NearestMean, nearest_mean
from incr_core.models.adapt._pruning import is_pruned, magnitude_pruning, movement_pruning
from incr_core.models.adapt._qat import ActivationRange, QuantisedLayer, qat
from incr_core.models.adapt._ridge import RidgeHead, ridge
from incr_core.models.adapt._text import Text, bert, ia3, peft_lora, prefix, prompt

__all__ = [
    "ADAPTATIONS",
    "ActivationRange",
    "NearestMean",
    "QuantisedLayer",
    "RidgeHead",
    "StreamingLDA",
    "Text",
    "adapter",
    "bert",
    "bitfit",
    "experts",
    "fold_weights",
    "freeze",
    "head_only",
    "ia3",
    "is_pruned",
    "lda",
    "lora",
    "magnitude_pruning",
    "merge_lora",
    "movement_pruning",
    "nearest_mean",
    "peft_lora",
    "prefix",
    "prompt",
    "qat",
    "ridge",
    "task_heads",
    "with_task",
]

ADAPTATIONS: Catalogue[Callable[..., nn.Module]] = Catalogue(
    "an adaptation",
    {
        "adapter": adapter,
        "bitfit": bitfit,
        "experts": experts,
        "freeze": freeze,
        "head_only": head_only,
        "ia3": ia3,
        "lda": lda,
        "lora": lora,
        "magnitude_pruning": magnitude_pruning,
        "movement_pruning": movement_pruning,
        "nearest_mean": nearest_mean,
        "peft_lora": peft_lora,
        "prefix": prefix,
        "prompt": prompt,
        "qat": qat,
        "task_heads": task_heads,
    },
    "incr.adaptations",
)
