"""Linear models: the gradient of their loss written down, which online costs less than finding it anew each time."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

from incr_core.batch import Batch
from incr_core.objective import Objective

__all__ = ["linear_backward"]


def linear_backward(model: nn.Linear, objective: Objective, batch: Batch) -> Tensor | None:
    """Leave on a linear model the gradient of its mean loss l, which is returned.

        z = x W^T + b        r = dl/dz        dl/dW = r^T x        dl/db = sum_i r_i        x (B, F), z and r (B, K)

    These are autograd's operations in autograd's order, so the gradient is the same to the bit. What is saved is the
    graph, built and walked for a single product: of few rows, half the time of a step.

    None, and no gradient, where autograd is needed: for losses whose slope r the objective does not write down, for
    weighted rows, and where a hook would look on.

    >>> import torch
    >>> from incr_core.objective import Binary
    >>> model = nn.Linear(2, 1)
    >>> loss = linear_backward(model, Binary(), Batch(torch.tensor([[1.0, 2.0]]), torch.tensor([1.0])))
    >>> bool(model.weight.grad[0, 1] == 2 * model.weight.grad[0, 0]), bool(model.bias.grad == model.weight.grad[0, 0])
    (True, True)
    """
    x, weight, bias = batch.inputs, model.weight, model.bias
    if batch.weights is not None or isinstance(x, dict) or x.dim() != 2 or _observed(model):
        return None
    if not (_plain(weight) and (bias is None or _plain(bias))):
        return None
    output = F.linear(x, weight.detach(), None if bias is None else bias.detach())
    slope = objective.slope(output, batch.targets)
    if slope is None:
        return None
    weight.grad = slope.t().mm(x)
    if bias is not None:
        bias.grad = slope.sum(0)
    return objective.forward(output, batch.targets)


def _observed(model: nn.Linear) -> bool:
    """Whether somebody put hooks, or a forward of their own, on the layer."""
    return bool(
        "forward" in model.__dict__
        or model._forward_hooks
        or model._forward_pre_hooks
        or model._backward_hooks
        or model._backward_pre_hooks
        or torch_module._has_any_global_hook()  # type: ignore[no-untyped-call]
    )


def _plain(weight: Tensor) -> bool:
    """Whether it wants a gradient, and nobody else does."""
    return weight.requires_grad and not weight._backward_hooks and not weight._post_accumulate_grad_hooks
