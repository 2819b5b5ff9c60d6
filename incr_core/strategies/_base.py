"""What a learner does besides following the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from incr_core._util import MadeWith
from incr_core.batch import Batch
from incr_core.numerics import as_reals, local, own_buffers
from incr_core.objectives import Objective
from incr_core.strategies._traits import Traits, check_traits

__all__ = ["Context", "PerWeight", "Strategy"]


@dataclass(slots=True)
class Context:
    """What a strategy may look at while the learner works.

    new: the rows of the current batch as they came, before strategies append, weigh or set aside any.
    increment: the number of the increment being learned, from 0.
    step: optimiser steps taken since the learner was made.
    raised: the factor by which a drift's action, or the number of replicas, raises the optimiser's learning rate.
    generator: the seeded source of every random choice; part of the learner's state.
    names, parameters: the trainable weights of the model, in its own order.
    rewound: a context; afterwards all random numbers, and what modules keep besides tensors, are as before.
    """

    model: nn.Module
    objective: Objective
    optimizer: Optimizer
    generator: torch.Generator
    device: torch.device
    new: Batch | None = None
    increment: int = -1
    step: int = 0
    raised: float = 1.0
    names: list[str] = field(default_factory=list)
    parameters: list[nn.Parameter] = field(default_factory=list)
    rewound: Callable[[], AbstractContextManager[None]] = nullcontext

    def per_new_row(self, ratio: float) -> int:
        """`ratio` remembered rows for each new one, rounded, and at least 1; rows appended before do not count.

        >>> ctx = Context(None, None, None, None, None, new=Batch(torch.zeros(8, 1), torch.zeros(8)))
        >>> ctx.per_new_row(0.5), ctx.per_new_row(0.01)
        (4, 1)
        """
        assert self.new is not None, "the learner's step sets it"
        return max(1, round(ratio * len(self.new)))

    def rates(self, index: list[int] | None = None) -> float | list[float]:
        """The learning rate of all weights, or a list of those at `index` where the optimiser has several groups."""
        groups = self.optimizer.param_groups
        if len(groups) == 1:
            return float(groups[0]["lr"]) * self.raised
        rate = {id(weight): float(group["lr"]) * self.raised for group in groups for weight in group["params"]}
        return [rate[id(self.parameters[place])] for place in (index or range(len(self.parameters)))]

    def weights_and_gradients(self) -> tuple[list[Tensor], list[Tensor], list[int]]:
        """This participant's part of each weight that has a gradient, of that gradient, and its place in `parameters`.

        Complex weights come as pairs of real ones, here and in `PerWeight`.
        """
        index = [place for place, weight in enumerate(self.parameters) if weight.grad is not None]
        weights = [as_reals(local(self.parameters[place].detach())) for place in index]
        gradients = [as_reals(local(self.parameters[place].grad)) for place in index]  # type: ignore[arg-type]
        return weights, gradients, index


class PerWeight(nn.Module):
    """One tensor for every trainable weight, of its shape (its shard's, where weights are sharded), from zero.

    >>> model = nn.Linear(2, 1)
    >>> anchor = PerWeight()
    >>> anchor.allocate(Context(model, None, None, None, None, names=["weight"], parameters=[model.weight]))
    >>> [tuple(tensor.shape) for tensor in anchor.tensors()]
    [(1, 2)]
    """

    def allocate(self, ctx: Context) -> None:
        """Make the tensors."""
        for name, weight in zip(ctx.names, ctx.parameters, strict=True):
            # A buffer's name may not hold a dot.
            self.register_buffer(name.replace(".", "/"), torch.zeros_like(as_reals(local(weight.detach()))))

    def tensors(self, index: list[int] | None = None) -> list[Tensor]:
        """All of them, or those at `index`, in the order of `Context.parameters`."""
        found = [value for value in own_buffers(self).values() if value is not None]
        return found if index is None or len(index) == len(found) else [found[place] for place in index]


class Strategy(MadeWith, nn.Module):
    """The base of every strategy: override the hooks you need; the others cost nothing.

    Its state is its buffers, parameters and submodules, so saving and moving to a device come free. What it declares
    about itself is one attribute, `traits`.

    >>> class Lasso(Strategy):
    ...     "Pull every weight towards zero by a constant: add strength * sum |w| to the loss."
    ...     def __init__(self, strength: float) -> None:
    ...         super().__init__()
    ...         self.strength = strength
    ...     def loss(self, ctx, batch, output):
    ...         return {"lasso": self.strength * sum(weight.abs().sum() for weight in ctx.parameters)}
    """

    traits: ClassVar[Traits] = Traits()
    """What the learner, the job and other strategies must know of it: see `Traits`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check the traits when the class is made, where its author sees the error."""
        super().__init_subclass__(**kwargs)
        check_traits(cls, Strategy)

    @property
    def off(self) -> bool:
        """Whether it is turned off: then only `attach` is called, and it conflicts with no other strategy. One that
        adds a term to the loss must say so, since a step with terms is not computed as one without."""
        return False

    def attach(self, ctx: Context) -> None:
        """The learner is made: allocate what depends on the model."""

    def begin(self, ctx: Context) -> None:
        """An increment starts."""

    def adopted(self, ctx: Context) -> None:
        """The weights are now an anchor that all participants share: a round starts or ends. Gradients are off."""

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        """Append remembered rows to `batch`, whose own rows stay in front, so one forward serves new and old."""
        return batch

    def weigh(self, ctx: Context, batch: Batch, output: Tensor) -> Tensor | None:
        """How much each row's loss counts for, (B,), times the weight it has; gradients are off. None: as it is.

        The objective's loss becomes sum_i f_i w_i l_i / sum_i w_i: it is divided by the weights the rows came with. So
        the factor of one row does not change what another counts for, and accumulation stays exact where a factor
        depends on its own row and on state that moves in `after_step`. Choose factors of mean 1 to keep the size of a
        step. Terms that strategies add in `loss` are theirs to weigh.
        """
        return None

    def loss(self, ctx: Context, batch: Batch, output: Tensor) -> Mapping[str, Tensor]:
        """Extra terms of the loss, each logged under its name. `batch` is as augmented, `output` (B, ...) its."""
        return {}

    def after_backward(self, ctx: Context) -> None:
        """Edit the gradients of `ctx.parameters` in place."""

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """The step is taken, gradients are off. `batch` holds only the new rows, `output` theirs from before it."""

    def end(self, ctx: Context, labelled: Batch) -> None:
        """The increment, whose rows are `labelled`, is learned: consolidate."""

    def derive(
        self, weights: Mapping[str, Tensor], shared: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """What follows from what all participants share, which was merged just now: weights and shared state that are
        others from now on, by name.

        weights: all that a round exchanges, "model.0.bias"; shared: this strategy's own. It is a function of the two
        and of the strategy's arguments: a server, which has no model and never calls `attach`, works it out itself, so
        no client has to be believed.
        """
        return {}, {}

    def answering(self, ctx: Context) -> AbstractContextManager[None] | None:
        """Inside, the model has weights of this participant's own, with which it predicts its rows; None: it has none.

        What is learned, merged and published is the common model all the same.
        """
        return None

    @property
    def keeps(self) -> float:
        """About the share of rows that `weigh` gives a factor above 0. Where it is small, the learner runs no others
        backward: the same maths, with less of it."""
        return 1.0

    def draws(self, rows: int, batches: int) -> int | None:
        """About how many remembered rows it draws beside so many new ones, in so many batches, from each memory it has.

        That many are fetched where they are drawn from the memories of all replicas (`cluster.memory_scope`). None: it
        draws none, and needs its memory as a whole, so that the others' can be no part of it.
        """
        return rows

    def extra_repr(self) -> str:
        """The arguments, for logs and reports."""
        return ", ".join(
            f"{name}={value}"
            for name, value in self.__dict__.items()
            if not name.startswith("_") and isinstance(value, int | float | str) and name != "training"
        )
