"""The gradient of a linear model in closed form, which online costs less than building an autograd graph for it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from incr_core.batch import Batch
from incr_core.numerics import gradient_is_hooked, module_is_hooked
from incr_core.objectives import Objective

__all__ = ["has_slope", "linear_backward"]


def linear_backward(model: nn.Linear, objective: Objective, batch: Batch) -> Tensor | None:
    """Leave on a linear model the gradient of its mean loss l, which is returned.

        z = x W^T + b        r = dl/dz        dl/dW = r^T x        dl/db = sum_i r_i        x (B, F), z and r (B, K)

    These are autograd's operations in autograd's order, so the gradient is the same to the bit. What is saved is the
    graph, built and walked for a single product: half the time of a step on few rows.

    None, and no gradient, where autograd is needed: where the objective leaves the slope r to it, for weighted rows, in
    mixed precision, and where a hook is registered.

    >>> import torch
    >>> from incr_core.objectives import Binary
    >>> model = nn.Linear(2, 1)
    >>> loss = linear_backward(model, Binary(), Batch(torch.tensor([[1.0, 2.0]]), torch.tensor([1.0])))
    >>> bool(model.weight.grad[0, 1] == 2 * model.weight.grad[0, 0]), bool(model.bias.grad == model.weight.grad[0, 0])
    (True, True)
    """
    x, weight, bias = batch.inputs, model.weight, model.bias
    if batch.weights is not None or isinstance(x, dict) or x.dim() != 2:
        return None
    watched = module_is_hooked(model) or module_is_hooked(objective)
    if watched or not (_plain(weight) and (bias is None or _plain(bias))):
        return None
    output = F.linear(x, weight.detach(), None if bias is None else bias.detach())
    slope = objective.slope(output, batch.targets)
    if slope is None or slope.dtype != x.dtype:
        return None
    weight.grad = slope.t().mm(x)
    if bias is not None:
        bias.grad = slope.sum(0)
    return objective.forward(output, batch.targets)


def has_slope(objective: Objective) -> bool:
    """Whether an objective defines the slope of its loss, and no subclass has redefined the loss since.

    >>> from incr_core.objectives import GrowingMulticlass
    >>> from incr_core.objectives import Multiclass
    >>> has_slope(Multiclass(3)), has_slope(GrowingMulticlass(3))
    (True, False)
    """
    kinds = type(objective).__mro__

    def home(method: str) -> int:
        return next(place for place, kind in enumerate(kinds) if method in vars(kind))

    return kinds[home("slope")] is not Objective and home("slope") <= min(home("forward"), home("rows"))


def _plain(weight: Tensor) -> bool:
    """Whether it takes a gradient, and no hook sees it."""
    return weight.requires_grad and not gradient_is_hooked(weight)
