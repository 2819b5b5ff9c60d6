"""The one visible step: augment, forward, objective and losses, backward, after_backward, clip, step, after_step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from incr_core.batch import Batch, cat, share_of
from incr_core.errors import ArgumentError
from incr_core.learner._division import Division
from incr_core.learner._linear_step import has_slope, linear_backward
from incr_core.learner._optimizer_step import Descent
from incr_core.learner._private_step import PrivateGradient
from incr_core.learner._row_weighting import RowWeighting
from incr_core.numerics import Precision
from incr_core.strategies import Context, Hooks

__all__ = ["Step", "explain_batch_norm", "shares_of"]


class Step:
    """Takes optimiser steps over the new rows of batches.

    Args:
        context: The learner's context.
        hooks: The strategies' hooks.
        descent: Steps the optimiser.
        precision: Precision of forwards.
        division: Division of rows among shards.
        pairs_rows: Whether the model combines several rows.
        strategies: Whether there are any strategies.

    Attributes:
        losses: Sums over new rows of each loss term, until they are reset.
        after_step: Hooks to call after a step, usually those of the strategies.
        private: The private gradient, if rows are hidden.
    """

    def __init__(
        self,
        context: Context,
        hooks: Hooks,
        descent: Descent,
        precision: Precision,
        division: Division,
        *,
        pairs_rows: bool,
        strategies: bool,
    ) -> None:
        self.context = context
        self.model = context.model
        self.objective = context.objective
        self.hooks = hooks
        self.descent = descent
        self.precision = precision
        self.division = division
        self.after_step = hooks.after_step
        self.losses: dict[str, float | Tensor] = {}
        self.private: PrivateGradient | None = None
        self._on_cpu = context.device.type == "cpu"
        plain = type(self.model) is nn.Linear and not strategies and precision.name == "float32"
        self._linear = plain and has_slope(self.objective)
        self._weighting = RowWeighting(context, hooks, precision, rowwise=not pairs_rows) if hooks.weigh else None

    def take(self, batches: list[Batch]) -> int:
        """Take one optimiser step over the new rows of `batches`; return their number, or 0 if the step was skipped."""
        if self.private is not None:
            return self._take_private(self.private, batches)
        if self._linear and len(batches) == 1 and self._take_linear(batches[0]):
            return len(batches[0])
        context, division, outputs, overflowed = self.context, self.division, [], False
        alone = len(batches) == 1 and not division.divides  # the loss is already the mean
        for batch, share in zip(batches, shares_of(batches), strict=True):
            context.new = mixed = batch
            for augment in self.hooks.augment:
                mixed = augment(context, mixed)
            mine, copies = division.share(mixed)
            if self._weighting is not None:
                loss, output = self._weighting.loss(mine)
            else:
                with self.precision.autocast():
                    output = self.model(mine.inputs)
                    loss = self.objective(output, mine.targets, mine.weights)
            terms = {"loss": loss}
            for hook in self.hooks.loss:
                for name, term in hook(context, mine, output).items():
                    terms[name] = terms[name] + term if name in terms else term
            total = reduce(add, terms.values())
            if division.own_chance is not None:
                division.own_chance.end()
            overflowed |= not self.descent.backward(total if alone else total * (share * copies))
            self.log(terms, len(batch))
            if self.after_step:
                outputs.append(output.detach()[: len(batch)])

        context.new = None  # does not keep the increment's rows alive
        if overflowed:
            self.losses["norm of the gradient"] = float("inf")
            self.descent.let_go()
            return 0
        for hook in self.hooks.after_backward:
            hook(context)
        self.descent.step()  # includes clipping
        return self.taken(batches, outputs)

    def taken(self, batches: Sequence[Batch], outputs: Sequence[Tensor]) -> int:
        """Notify the strategies of a step; return its number of new rows.

        Args:
            batches: The new rows.
            outputs: The outputs for the new rows of each batch.
        """
        self.context.step += 1
        if self.after_step:
            with torch.no_grad():
                fresh, output = cat(batches), outputs[0] if len(outputs) == 1 else torch.cat(list(outputs))
                for hook in self.after_step:
                    hook(self.context, fresh, output)
        return sum(map(len, batches))

    def _take_linear(self, batch: Batch) -> bool:
        """Take a linear model's step without autograd; return False, without a step, if autograd is needed."""
        assert isinstance(self.model, nn.Linear)
        loss = linear_backward(self.model, self.objective, batch)
        if loss is None:
            return False
        self.log({"loss": loss}, len(batch))
        self.descent.step()
        self.context.step += 1
        return True

    def _take_private(self, private: PrivateGradient, batches: list[Batch]) -> int:
        """Take a step that hides each row. Strategies that read rows are excluded (`why_not_private`)."""
        self.losses["loss"] = self.losses.get("loss", 0.0) + private.backward(batches)
        for hook in self.hooks.after_backward:
            hook(self.context)
        self.descent.step()
        self.context.step += 1
        return sum(map(len, batches))

    def log(self, terms: Mapping[str, Tensor], rows: float) -> None:
        """Add the terms of a batch's mean loss, times its new rows, to `losses`."""
        for name, term in terms.items():
            # On the CPU, reading a value does not wait. The term of a shard's peers is not needed if the term is whole.
            value = term.item() if self._on_cpu and type(term) is Tensor else term.detach()
            self.losses[name] = self.losses.get(name, 0.0) + value * rows


def explain_batch_norm(error: ValueError) -> None:
    """Raise an ArgumentError if an error of torch is BatchNorm's about too few rows."""
    if "more than 1 value per channel" in str(error):
        raise ArgumentError(
            "learner: the model has BatchNorm, which needs at least 2 rows to learn from, and there is 1; "
            "raise learner.batch_size above 1, gather more rows in an increment (stream.every), remember rows "
            "(strategy replay), use LayerNorm, or, for a custom BatchNorm that raised this at the end of an "
            'increment, set model.rows = "together"'
        ) from error


def shares_of(batches: Sequence[Batch]) -> list[float | Tensor]:
    """Return the share of each batch's mean loss in the mean over all their rows."""
    if len(batches) == 1:
        return [1.0]
    weights = [batch.total_weight() for batch in batches]
    total = sum(weights)
    return [share_of(weight, total) for weight in weights]
