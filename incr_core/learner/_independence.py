"""Empirical test whether a model treats each row of a batch independently."""

from __future__ import annotations

import warnings
from functools import reduce
from operator import add, itemgetter

import torch
from torch import Tensor, nn
from torch.func import vmap

from incr_core.batch import Batch, Inputs, map_inputs, share_of
from incr_core.errors import JobError
from incr_core.models import restored, same_bits
from incr_core.numerics import Applied, global_random_state, tree_leaves, unsharded, whole_weights
from incr_core.objectives import Objective

__all__ = ["rows_independent"]

Outcome = tuple[list[Tensor], Tensor, list[Tensor]]
"""Result of a forward and backward: the outputs (B, ...), the loss, and its gradients."""


def rows_independent(model: nn.Module, objective: Objective, batch: Batch, parts: int) -> bool | None:
    """Whether learning the rows of a batch in `parts` parts equals, to rounding, learning them at once.

    True if all of this holds for these rows:
        the outputs, and the gradients of the loss, are the same for the whole batch and for every parts-th row, and the
        outputs are the same for single rows;
        a forward changes no buffer and no other state of the modules;
        it draws no random number, because parts would draw different ones, and its control flow does not depend on the
        values of rows (`torch.func.vmap` rejects such a forward).
    False if one condition fails, or cannot be tested. None if the rows are too few or all equal.

    The weights are perturbed randomly, because a mixing of rows with a factor that is initially 0 would not show. The
    model, in its current mode, the objective and the global random state are restored afterwards. Sharded weights are
    gathered (a collective call); shards that test equal rows get the same result.

    Args:
        model: The model.
        objective: Its objective.
        batch: Rows for the test.
        parts: Number of parts.

    Raises:
        JobError: The forward overwrites a parameter: a shard's writes would be lost.

    Example:
        >>> rows = Batch(torch.randn(8, 2), torch.zeros(8))
        >>> from incr_core.objectives import Binary
        >>> rows_independent(nn.Linear(2, 1), Binary(), rows, 2)
        True
        >>> rows_independent(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)), Binary(), rows, 2)
        False
    """
    given = [value for value in tree_leaves(batch.inputs) if value.numel()]
    if len(batch) < 2 * parts or not all((value != value[:1]).any() for value in given):
        return None
    learn, fixed = whole_weights(model)
    with (
        unsharded(model),
        restored(model, objective) as held,
        global_random_state(0, batch.targets.device),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # the same warnings are shown during learning
        trial = _Trial(model, objective, {name: _moved(weight) for name, weight in learn.items()}, fixed)
        try:
            whole = trial.run(batch)
            if not all(torch.isfinite(value).all() for value in (*whole[0], whole[1])):
                return None
            return trial.divides(batch, whole, parts) and not trial.changed and not held.changed()
        except JobError:
            raise
        except Exception:  # a model may raise anything here
            return False


class _Trial:
    """Runs forwards and backwards of a model with given weights.

    Attributes:
        changed: Whether a forward has changed a buffer.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, learn: dict[str, Tensor], fixed: dict[str, Tensor]
    ) -> None:
        self.applied = Applied(model)
        self.objective = objective
        self.learn = learn
        self.fixed = fixed
        self.parameters = {name for name, _ in model.named_parameters()}
        self.changed = False

    def run(self, batch: Batch) -> Outcome:
        """Return outputs, loss and gradients of a batch."""
        given = self.learn | self.fixed
        tensors = self._tensors()
        output = self.applied(tensors, batch.inputs)
        before = {name: value.clone() for name, value in self.objective.named_buffers()}
        loss = self.objective(output, batch.targets, batch.weights)
        self.changed |= any(not same_bits(value, before[name]) for name, value in self.objective.named_buffers())
        for name in [name for name, value in tensors.items() if not same_bits(value, given[name])]:
            if name in self.parameters:
                raise JobError(
                    f"cluster.shards: expected parameters that only steps change, got {name}, which the model "
                    "overwrites in its forward; there it is a copy, gathered from the shards. Change it outside of "
                    "the forward, keep it as a buffer, or set shards = 1"
                )
            self.changed = True
        leaves = [tensors[name] for name in self.learn]
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return tree_leaves(output), loss, list(gradients)

    def divides(self, batch: Batch, whole: Outcome, parts: int) -> bool:
        """Whether parts of a batch, and single rows, give the same results as the whole."""
        outputs, _, gradients = whole
        slopes = []
        for rank in range(parts):
            part = batch.map(itemgetter(slice(rank, None, parts)))
            share = share_of(part.total_weight(), batch.total_weight())
            found, _, part_gradients = self.run(part)
            slopes.append([gradient * share for gradient in part_gradients])
            if not _close([value[rank::parts] for value in outputs], found):
                return False
        summed = [reduce(add, each) for each in zip(*slopes, strict=True)]
        return _close(gradients, summed) and _close(outputs, self._singly(batch.inputs))

    def _singly(self, inputs: Inputs) -> list[Tensor]:
        """Return the outputs of rows computed one by one."""
        tensors = {name: value.detach() for name, value in self._tensors().items()}

        def one(row: Inputs) -> list[Tensor]:
            return tree_leaves(self.applied(dict(tensors), map_inputs(lambda value: value[None], row)))

        with torch.no_grad():
            return [value.squeeze(1) for value in vmap(one, randomness="error")(inputs)]

    def _tensors(self) -> dict[str, Tensor]:
        return {
            **{name: value.clone().requires_grad_() for name, value in self.learn.items()},
            **{name: value.clone() for name, value in self.fixed.items()},
        }


def _moved(weight: Tensor) -> Tensor:
    """Return a randomly perturbed copy of a weight."""
    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    return weight + 0.1 * (weight.abs().mean() + 0.1) * drawn.to(weight.device, weight.dtype)


def _close(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether two lists of tensors are equal up to rounding, relative to the largest element of all."""
    if len(one) != len(other) or any(a.shape != b.shape for a, b in zip(one, other, strict=True)):
        return False
    size = max((float(value.abs().max()) for value in one if value.numel()), default=0.0)
    gap = max((float((a - b).abs().max()) for a, b in zip(one, other, strict=True) if a.numel()), default=0.0)
    inexact = [value.dtype for value in one if value.is_floating_point() or value.is_complex()]
    rounding = max((torch.finfo(dtype).eps for dtype in inexact), default=0.0)
    return bool(gap <= rounding**0.5 * size)
