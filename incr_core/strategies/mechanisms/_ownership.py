"""Assignment of weights to tasks, so that one network holds several tasks without interference."""

from __future__ import annotations

import torch
from torch import Tensor

from incr_core.numerics import ToldOfChanges, local, whole
from incr_core.strategies._base import Context, PerWeight

__all__ = ["Ownership"]


class Ownership(ToldOfChanges):
    """The owner of every trainable weight, and the value that an owned weight keeps.

    Attributes:
        owner: 0 for a free weight, t + 1 for a weight of task t. In the shapes of the weights or their shards.
        kept: The values to restore, in the same shapes.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(4, 1, bias=False); _ = model.weight.data.copy_(torch.tensor([[1.0, -3.0, 2.0, 0.5]]))
        >>> ctx = Context(model, None, None, None, None, names=["weight"], parameters=[model.weight])
        >>> ownership = Ownership(); ownership.allocate(ctx); ownership.claim(ctx, task=1, share=0.5)
        >>> ownership.owner.tensors()[0].tolist(), model.weight.tolist()
        ([[0.0, 1.0, 1.0, 0.0]], [[0.0, -3.0, 2.0, 0.0]])
    """

    def __init__(self) -> None:
        super().__init__()
        self.owner = PerWeight()
        self.kept = PerWeight()
        self._masks: tuple[int, list[Tensor], list[Tensor]] | None = None

    def allocate(self, ctx: Context) -> None:
        """Create the tensors; all weights are free."""
        self.owner.allocate(ctx)
        self.kept.allocate(ctx)

    def owners(self) -> int:
        """Return the highest owner, which is the number of tasks that own weights."""
        return max(int(owner.max()) for owner in self.owner.tensors() if owner.numel())

    @torch.no_grad()
    def claim(self, ctx: Context, task: int, share: float) -> None:
        """Assign the largest `share` of each tensor's free weights to `task`, and set the rest to 0.

        Free tensors of one dimension are assigned whole. All weights equal to the threshold are assigned.
        """
        for weight, owner in zip(ctx.parameters, self.owner.tensors(), strict=True):
            mine, free = local(weight), owner == 0
            if weight.ndim < 2:
                owner[free] = task
                continue
            # The threshold applies to the whole tensor: sizes of free weights are gathered through the sharded weight
            # itself.
            live = mine.clone()
            mine.copy_(torch.where(free, live.abs(), -1.0))
            sizes = whole(weight).detach().flatten().clone()
            mine.copy_(live)
            count = round(share * int((sizes >= 0).sum()))
            if count:
                owner[free & (live.abs() >= sizes.topk(count).values[-1])] = task
            mine[owner == 0] = 0.0
        self._masks = None

    @torch.no_grad()
    def keep(self, ctx: Context) -> None:
        """Store the current weights as the values to restore."""
        torch._foreach_copy_(self.kept.tensors(), [local(weight) for weight in ctx.parameters])
        self._masks = None

    @torch.no_grad()
    def mask_gradients(self, ctx: Context, learning: int) -> None:
        """Zero all gradients except those of the owner `learning`."""
        _, gradients, index = ctx.weights_and_gradients()
        learns, _ = self._masked(learning)
        torch._foreach_mul_(gradients, [learns[place] for place in index])

    @torch.no_grad()
    def put_back(self, ctx: Context, learning: int) -> None:
        """Restore the kept value of all weights except those of the owner `learning`."""
        weights = [local(weight.detach()) for weight in ctx.parameters]
        learns, held = self._masked(learning)
        torch._foreach_mul_(weights, learns)
        torch._foreach_add_(weights, held)

    @torch.no_grad()
    def settle(self, ctx: Context, newest: list[Tensor], since: int, until: int) -> None:
        """Keep the weights of owners above `since`: those of `until` from `newest`, the others from the model."""
        states = (self.owner.tensors(), self.kept.tensors(), newest)
        for weight, owner, kept, new in zip(ctx.parameters, *states, strict=True):
            kept.copy_(torch.where(owner > since, torch.where(owner == until, new, local(weight)), kept))
        self._masks = None

    @torch.no_grad()
    def hide(self, ctx: Context, above: int) -> None:
        """Set weights that are free, or that belong to owners above `above`, to 0."""
        for weight, owner in zip(ctx.parameters, self.owner.tensors(), strict=True):
            local(weight).masked_fill_((owner == 0) | (owner > above), 0.0)

    def _masked(self, learning: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return a mask, 1 where a weight learns, and the values to restore, 0 there. Cached between steps."""
        if self._masks is None or self._masks[0] != learning:
            learns = [(owner == learning).to(owner.dtype) for owner in self.owner.tensors()]
            held = [kept * (1 - mask) for kept, mask in zip(self.kept.tensors(), learns, strict=True)]
            self._masks = learning, learns, held
        return self._masks[1], self._masks[2]

    def tensors_changed(self) -> None:
        """Discard the masks, which depend on the owners and the kept values."""
        self._masks = None
