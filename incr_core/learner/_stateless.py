"""Learning of many stateless clients as one batch, with one learner.

    W_k = the anchor, learned on the rows of client k        mean = a + sum_k n_k (W_k - a) / sum_k n_k

A stateless client keeps nothing between rounds: it consists of its rows and their order, and its optimiser begins
without moments. So no client needs its own model or update. The stacked weights of K clients are summed directly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.learner._learner import Learner
from incr_core.learner._stacked import descend, laid_out
from incr_core.learner._stacked_optimizer import StackedOptimizer
from incr_core.update import Update, Weights

__all__ = ["learn_stateless"]


def learn_stateless(
    learner: Learner,
    rows: Batch,
    sizes: Sequence[int] | Tensor,
    passes: int,
    anchor: Weights,
    orders: Sequence[Sequence[Tensor | None]] = (),
) -> Update:
    """Learn the rows of K clients, each starting at the anchor, and return the mean of their updates, by rows.

    Args:
        learner: has adopted the anchor, and can be learned together with others (`why_alone`). It does not change.
        rows: rows of the first client, then of the second, and so on, (B, ...).
        sizes: number of rows of each client, at least one, (K,).
        passes: number of passes over the rows of each client.
        anchor: the weights at which all clients start.
        orders: for each client and pass, the places of its rows, or None for their stored order. Empty: the stored
            order for all clients.

    Example:
        >>> from incr_core.objectives import Regression
        >>> learner = Learner(torch.nn.Linear(1, 1, bias=False), Regression(), torch.optim.SGD)
        >>> anchor = {"model.weight": torch.zeros(1, 1), **{name: value.clone() for name, value in
        ...     learner.weights().items() if name != "model.weight"}}
        >>> learner.adopt(anchor)
        >>> rows = Batch(torch.ones(4, 1), torch.tensor([1.0, 1.0, 1.0, -1.0], dtype=torch.float64))
        >>> update = learn_stateless(learner, rows, [3, 1], 1, anchor)
        >>> update.num_rows, update.steps
        (4, 2)
    """
    sizes = torch.as_tensor(sizes)
    steps = _steps_of(learner, sizes, passes)
    order = steps.argsort(descending=True, stable=True)
    offsets = sizes.cumsum(0) - sizes
    ranked = [orders[place] for place in order.tolist()] if len(orders) else ()
    layout = laid_out(
        sizes[order], offsets[order], steps[order], learner.steps.batch_size, passes, ranked, learner.device
    )
    optimizer = StackedOptimizer([learner.descent], count=len(sizes))
    stacked, losses = descend(learner, rows.to(learner.device), layout, optimizer)
    shares = (sizes[order].double() / sizes.sum()).to(learner.device)
    learned = {
        f"model.{name}": _mean(values, anchor[f"model.{name}"].to(learner.device), shares)
        for name, values in zip(learner.context.names, stacked, strict=True)
    }
    update = Update({**anchor, **learned}, int(sizes.sum()) * passes, {"loss": float(losses.sum())})
    update.steps = int(steps.sum())
    return update


def _steps_of(learner: Learner, sizes: Tensor, passes: int) -> Tensor:
    """The number of steps of each client, (K,)."""
    found, which = sizes.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return torch.tensor([learner.steps_in(size, passes) for size in found.tolist()])[which]


@torch.no_grad()
def _mean(values: Tensor, anchor: Tensor, shares: Tensor) -> Tensor:
    """a + sum_k p_k (v_k - a), in the memory of the values. An entry that no client moved keeps its bits."""
    moved = values.sub_(anchor).flatten(1)
    return anchor + (shares.to(moved.dtype) @ moved).view(anchor.shape)
