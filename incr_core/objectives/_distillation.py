"""Distillation loss for each kind of objective."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from incr_core.objectives._base import Binary, Multiclass, Objective
from incr_core.objectives._blend import Blend
from incr_core.objectives._multilabel import Multilabel
from incr_core.objectives._next_token import NextToken

__all__ = ["distillation_loss"]


def distillation_loss(objective: Objective, student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Return the mean divergence of two outputs of the model over rows.

        multiclass   T^2 KL(softmax(t / T) || softmax(s / T)), over the classes seen so far
        binary       T^2 KL of the two Bernoulli distributions at temperature T
        multilabel   as binary, averaged over labels
        next_token   as multiclass, averaged over places
        experts      the sum over those that learn by steps, each by its own objective
        others       (s - t)^2

    T^2 preserves the size of the gradient.

    Args:
        objective: The objective.
        student: Output of the student.
        teacher: Output of the teacher; no gradient flows to it.
        temperature: T.

    Shapes:
        student, teacher: (B, ...).

    Returns:
        A scalar in nats; squared outputs for other objectives.

    Example:
        >>> import torch
        >>> distillation_loss(Multiclass(2), torch.zeros(1, 2), torch.zeros(1, 2)).item()
        0.0

    Reference:
        Hinton et al. 2015, "Distilling the knowledge in a neural network", section 2.
    """
    teacher = teacher.detach()
    if isinstance(objective, Blend):
        pairs = zip(objective.stepping(student), objective.stepping(teacher), strict=True)
        losses = [distillation_loss(objective.each, s, t, temperature) for s, t in pairs]
        return torch.stack(losses).sum()
    if isinstance(objective, Multiclass | NextToken):
        s, t = student.flatten(0, -2) / temperature, teacher.flatten(0, -2) / temperature
        if isinstance(objective, Multiclass):
            s, t = objective.visible(s), objective.visible(t)
        soft, target = F.log_softmax(s, dim=1), F.log_softmax(t, dim=1)
        return F.kl_div(soft, target, reduction="batchmean", log_target=True) * temperature**2
    if isinstance(objective, Binary | Multilabel):
        z, t = student.reshape(-1) / temperature, teacher.reshape(-1) / temperature
        p = t.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(t, p)
        return (F.binary_cross_entropy_with_logits(z, p) - entropy) * temperature**2
    return F.mse_loss(student, teacher)
