"""The update rule: a model, an objective, an optimiser and strategies, learning from rows as they come.

One step is visible in one place, `Learner._step`. Every engine runs this class and no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from operator import add
from typing import Any, Literal

import torch
from torch import Tensor, nn

from incr_core.batch import Batch, Inputs, Steps, cat, map_inputs, share_of, split_inputs
from incr_core.errors import ArgumentError, CheckpointError, JobError
from incr_core.learner._independence import rows_independent
from incr_core.learner._linear_step import has_slope, linear_backward
from incr_core.learner._mergeable import Mergeable
from incr_core.learner._optimizer_step import Descent
from incr_core.learner._optimizers import (
    OptimizerFactory,
    check_gradients,
    factory_of,
    fusable,
    keep_dense,
    sparse_weights,
)
from incr_core.learner._row_weighting import Choosing
from incr_core.learner._schedule import Groups, Schedule, grouped
from incr_core.learner._signature import check_made_of, made_of
from incr_core.memories import Memory
from incr_core.models import Calls, Entries, ExtraState, keep_frozen_in_eval
from incr_core.numerics import (
    BatchNorm,
    OwnChance,
    Precision,
    agreed,
    draws_nothing,
    draws_only_from_torch,
    global_random_state,
    whole,
)
from incr_core.objectives import Objective
from incr_core.strategies import Context, Hooks, Strategy
from incr_core.update import Update

__all__ = ["Learner", "Rows"]

Rows = Literal["independent", "together"]


class Learner(Mergeable):
    """Learn increments of rows, one after another, and keep what was known.

    model: any `nn.Module` from a batch's inputs to an output; already on its device, already sharded if it is to be.
        Inputs that are a dict are given by name where its forward takes them so (`models.takes_by_name`); of an answer
        that is no tensor the `logits`, or the first of a tuple, are the output (`models.answer_of`).
    objective: what the output is for.
    optimizer: makes the optimiser from the parameters, like `torch.optim.Adam` or a `functools.partial` of one; or
        what a job says: "adam", or {"name": "adam", "lr": 0.003}.
    strategies: applied in this order, but where one must come before or after others (`Strategy.order`).
    batch_size, accumulate: an optimiser step follows the mean loss of `accumulate` batches of `batch_size` rows.
        It is exact: the same step, to rounding, as one batch of `accumulate * batch_size` rows, whatever the tail
        and the weights (but for layers that look at other rows, like BatchNorm, or at chance, like Dropout).
    epochs: passes over an increment's rows; shuffle: in a new seeded order each.
    clip: the largest norm of a step's gradient, or None.
    shard: (rank, size) inside a group of workers that hold one model together.
    precision: "float32", or "bfloat16" and "float16" for autocast forwards. float16 scales the loss up before the
        backward and the gradients down after it; a backward that overflows is run again at a smaller scale, and where
        none is small enough the update tells an infinite "norm of the gradient", and the step is not taken.
    schedule: changes the learning rate; None: it stays.
    groups: weights by name pattern, and what the optimiser is told about them (see `schedule.grouped`).
    rows: whether the model treats each row of a batch alone, so that shards may divide its rows. "together": it does
        not, and each shard takes the whole batch. "independent": it does, or is to be taken so: chance (Dropout) then
        is each shard's own, BatchNorm sees a shard's rows, and buffers that differ are merged after a round. None:
        found out from the first rows (`independence.rows_independent`), together where that cannot tell.

    descent: an attribute; how its optimiser is stepped. extra: another; what modules keep besides tensors.

    With BatchNorm, or rows that belong together, a last batch of one row joins the batch before it: there is nothing to
    learn from one. Parts of the model that are frozen stay in eval mode (`modes.keep_frozen_in_eval`).

    >>> from incr_core.objectives import Binary
    >>> learner = Learner(nn.Linear(2, 1), Binary(), torch.optim.SGD, batch_size=2)
    >>> rows = Batch(torch.randn(5, 2), torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]))
    >>> learner.learn(rows).rows
    5
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: OptimizerFactory | str | Mapping[str, Any],
        strategies: Sequence[Strategy] = (),
        *,
        batch_size: int = 32,
        accumulate: int = 1,
        epochs: int = 1,
        shuffle: bool = True,
        clip: float | None = None,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
        precision: str = "float32",
        schedule: Schedule | None = None,
        groups: Groups = (),
        rows: Rows | None = None,
    ) -> None:
        if batch_size < 1 or accumulate < 1 or epochs < 1:
            raise ArgumentError(
                "learner: batch_size, accumulate and epochs must each be at least 1, "
                f"got {batch_size}, {accumulate} and {epochs}"
            )
        if rows not in (None, "independent", "together"):
            raise ArgumentError(f'learner.rows: expected "independent" or "together", got {rows!r}')
        self.model = model
        self.objective = objective
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.epochs = epochs
        self.shuffle = shuffle
        self.shard = shard
        self.strategies = nn.ModuleList(strategies)

        self.entries = Entries(model=model, objective=objective)
        self.extra = ExtraState(model=model, objective=objective)
        keep_frozen_in_eval(model)
        trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        parameters = list(trainable.values())
        if not parameters:
            raise ArgumentError("learner: the model has no parameter with requires_grad; there is nothing to learn")
        self.device = parameters[0].device
        self.objective.to(self.device)
        self.precision = Precision(precision, self.device, sharded=shard[1] > 1)
        self.precision.check(trainable)
        make = factory_of(optimizer, fused=shard[1] == 1 and fusable(model))
        self.hooks = Hooks(strategies)
        if sparse := sparse_weights(model):
            if self.hooks.after_backward:
                sparse = keep_dense(sparse)  # strategies reckon with the gradient of every row
            check_gradients(make, sparse, [name for name in trainable if name not in sparse])
        parts = grouped(trainable, groups)
        try:
            descends = make(parts)
        except ValueError as error:  # it does not take weights like these: Muon, those that are not matrices
            raise ArgumentError(
                f"learner.optimizer: {error}; choose another optimizer, or freeze such weights"
            ) from error
        self.descent = Descent(
            descends,
            parameters,
            clip=clip,
            schedule=schedule,
            scale=self.precision.scale,
            sparse=bool(sparse),
        )
        self.optimizer = self.descent.optimizer
        others = not draws_only_from_torch(model, objective, *strategies)
        self.random_state = global_random_state(seed, self.device, others=others)
        self.context = Context(
            model,
            objective,
            self.optimizer,
            torch.Generator(self.device).manual_seed(seed),
            self.device,
            names=list(trainable),
            parameters=parameters,
        )
        with self.random_state:
            for strategy in strategies:
                strategy.attach(self.context)
        self.strategies.to(self.device)
        self.check_shared()
        pairs_rows = rows == "together" or any(isinstance(layer, BatchNorm) for layer in model.modules())
        self._steps = Steps(batch_size, accumulate, shuffle, seed, smallest=2 if pairs_rows else 1)
        self._losses: dict[str, float | Tensor] = {}
        self._untried = True  # no forward has been seen, which could make tensors of its own
        # Swapping the random state, or a model's mode, takes as long as the forward of a small model.
        self._chance: AbstractContextManager[Any] = self.random_state
        self._chance_predicting: AbstractContextManager[Any] = self.random_state
        certain = draws_nothing(model, objective)
        # Those of which that is certain map a tensor to a tensor.
        self._calls = None if draws_nothing(model) else Calls(model)
        self._has_modes = pairs_rows or not certain
        if certain:
            self._chance_predicting = nullcontext()
            if not strategies:
                self._chance = nullcontext()

        plain = type(model) is nn.Linear and not strategies and precision == "float32"
        self._linear = plain and has_slope(objective)
        self._choosing = (
            Choosing(self.context, self.hooks, self.precision, rowwise=not pairs_rows) if self.hooks.weigh else None
        )
        self.rows = rows
        self._independent: bool | None = None  # as found out
        self._divisible = (
            shard[1] > 1
            and rows != "together"
            and objective.rowwise
            and all(strategy.rowwise or strategy.off for strategy in strategies)
        )
        self._sliced = self._divisible and rows == "independent"
        self._own_chance = None if certain or not self._sliced else OwnChance(self.device, shard[0])
        self._after_step = self.hooks.after_step
        stepped = schedule is not None and schedule.each == "increment"
        self.consolidates = bool(self.hooks.end) or any(strategy.shared for strategy in strategies) or stepped
        self.spans = self.consolidates or bool(self.hooks.begin)
        self.remakes = any(strategy.remakes and not strategy.off for strategy in strategies)

    # -- learning ------------------------------------------------------------------------------------------------

    def learn(self, labelled: Batch) -> Update:
        """Learn the rows of one increment, from `begin` to `end`."""
        self.begin(labelled)
        update = self.advance()
        self.end(labelled)
        return update

    def begin(
        self, labelled: Batch, passes: int | None = None, increment: int | None = None, *, opens: bool = True
    ) -> None:
        """Start an increment: tell the strategies, and lay out its steps for `passes` (default `epochs`) passes.

        opens: False where strategies, which consolidate less often than at every increment, are in the midst of it.
        After `load_state_dict` of a state saved between two steps, go on with the same rows from there.
        """
        context = self.context
        if not (self._steps.unfinished and increment in (None, context.increment)):
            self._steps.close()
            context.increment = context.increment + 1 if increment is None else increment
            if self.hooks.begin and opens:
                with self.random_state:
                    for hook in self.hooks.begin:
                        hook(context)
        self.again(labelled, passes)

    def again(self, labelled: Batch, passes: int | None = None) -> None:
        """Lay out more passes over the rows of an increment that has begun: its next round."""
        labelled = labelled.to(self.device)
        if self.shard[1] > 1 and self._independent is None:
            self._try(labelled.slice(0, max(self.batch_size, 2 * self.shard[1])))
        self._steps.begin(labelled, self.epochs if passes is None else passes)

    def _try(self, rows: Batch) -> None:
        """Find out from the first rows whether shards may divide a batch, and refuse a model that cannot be sharded."""
        self._set_mode(training=True)
        found = rows_independent(self.model, self.objective, rows, self.shard[1])
        self._take_rows(agreed(found, self.context.parameters[0]))

    def _take_rows(self, independent: bool | None) -> None:
        """Divide batches between shards, if they may be, from now on."""
        self._independent = independent
        if self.rows is None:
            self._sliced = self._divisible and independent is True
        synced = any(isinstance(layer, nn.SyncBatchNorm) for layer in self.model.modules())
        if synced and self.shard[1] > 1 and not self._sliced:
            raise JobError(
                "cluster.shards: the model has SyncBatchNorm, which would count each row once a shard, since each "
                'takes whole batches; use BatchNorm, or set model.rows = "independent"'
            )

    @property
    def divides(self) -> bool:
        """Whether each shard takes some of a batch's rows; what a forward does to buffers then differs between them."""
        return self._sliced

    def steps_in(self, rows: int, passes: int | None = None) -> int:
        """How many optimiser steps `passes` over that many rows take."""
        return self._steps.count(rows, self.epochs if passes is None else passes)

    def advance(self, steps: int | None = None) -> Update:
        """Take the next `steps` optimiser steps of the increment (default: all that are left)."""
        self._set_mode(training=True)
        self._losses = {}
        self.context.raised = self.descent.rate
        rows = 0
        with self._chance:
            try:
                for batches in self._steps.take(steps):
                    rows += self._step(batches)
            except ValueError as error:
                _explain_batch_norm(error)
                raise
        self.entries.check_constants()
        if self._untried and rows:
            self.entries.check_names()
            self._untried = False
        losses = {
            name: float(whole(total) if isinstance(total, Tensor) else total) for name, total in self._losses.items()
        }
        return Update(self.weights, rows, losses)

    def rehearse(self, rows: Batch) -> Update:
        """One more pass over rows that were learned before; memories, which have been shown them, take no notice."""
        self.again(rows, 1)
        hooks, self._after_step = self._after_step, self.hooks.after_rehearsal
        try:
            return self.advance()
        finally:
            self._after_step = hooks
            self._steps.close()

    def end(self, labelled: Batch) -> None:
        """Finish the increment: let the strategies consolidate what was learned."""
        if self.hooks.end:
            labelled = labelled.to(self.device)
            with self.random_state:
                for hook in self.hooks.end:
                    hook(self.context, labelled)
        if self.descent.schedule is not None:
            self.descent.schedule.after("increment")
        self._steps.close()

    def _step(self, batches: list[Batch]) -> int:
        """One optimiser step over the new rows of `batches`; returns how many they are."""
        if self._linear and len(batches) == 1 and self._linear_step(batches[0]):
            return len(batches[0])
        context, outputs, overflowed = self.context, [], False
        alone = len(batches) == 1 and not self._sliced  # then the loss is the mean already
        for batch, share in zip(batches, _shares(batches), strict=True):
            context.new = mixed = batch
            for augment in self.hooks.augment:
                mixed = augment(context, mixed)
            part, copies = self._part(mixed)
            if self._choosing is not None:
                loss, output = self._choosing.loss(part)
            else:
                with self.precision.autocast():
                    output = self.model(part.inputs)
                    loss = self.objective(output, part.targets, part.weights)
            terms = {"loss": loss}
            for hook in self.hooks.loss:
                for name, term in hook(context, part, output).items():
                    terms[name] = terms[name] + term if name in terms else term
            total = reduce(add, terms.values())
            if self._own_chance is not None:
                self._own_chance.end()
            total = total if alone else total * (share * copies)
            overflowed |= not self.descent.backward(total)
            self._log(terms, len(batch))
            if self._after_step:
                outputs.append(output.detach()[: len(batch)])

        context.new = None  # what an increment brought is not kept until the next
        if overflowed:
            self._losses["norm of the gradient"] = float("inf")
            self.descent.let_go()
            return 0
        for hook in self.hooks.after_backward:
            hook(context)
        self.descent.step()
        context.step += 1
        if self._after_step:
            with torch.no_grad():
                fresh, output = cat(batches), outputs[0] if len(outputs) == 1 else torch.cat(outputs)
                for hook in self._after_step:
                    hook(context, fresh, output)
        return sum(map(len, batches))

    def _linear_step(self, batch: Batch) -> bool:
        """A linear model's step, without autograd; False, and none taken, where there must be one."""
        assert isinstance(self.model, nn.Linear)
        loss = linear_backward(self.model, self.objective, batch)
        if loss is None:
            return False
        self._log({"loss": loss}, len(batch))
        self.descent.step()
        self.context.step += 1
        return True

    def _part(self, batch: Batch) -> tuple[Batch, float | Tensor]:
        """This shard's rows of a batch, and the factor that makes the group's mean gradient that of the whole batch.

        FSDP averages gradients over a group's `size` shards. Where the model and every strategy treat rows alone, each
        shard takes every size-th row; its mean loss counts for its rows. Otherwise each shard computes the whole batch.
        """
        rank, size = self.shard
        if not self._sliced or len(batch) < size * self._steps.smallest:
            return batch, 1.0
        if self._own_chance is not None:
            self._own_chance.begin()
        part = batch.map(lambda tensor: tensor[rank::size])
        return part, share_of(part.total_weight(), batch.total_weight()) * size

    def _log(self, terms: Mapping[str, Tensor], rows: float) -> None:
        for name, term in terms.items():
            # On the CPU there is nothing to wait for; nor for a shard's peers, where the term is whole.
            value = term.item() if self.device.type == "cpu" and type(term) is Tensor else term.detach()
            self._losses[name] = self._losses.get(name, 0.0) + value * rows

    def _set_mode(self, training: bool) -> None:
        """Have the model learn, or predict, where that makes a difference to it."""
        if self._calls is not None and self._calls.settled(training, alone=not self.strategies):
            self._calls = None
        if self._has_modes:
            self.model.train(training)

    def memories(self) -> list[Memory]:
        """The memories of its strategies."""
        return [module for module in self.strategies.modules() if isinstance(module, Memory)]

    def forget(self, rows: Tensor) -> int:
        """Delete the rows with these ids (n,) from all memories (`Memory.forget`); returns how many were held.

        Of a run on disk, with everything else that it keeps of rows: `incr_core.Run.erase`, or `incr forget`.
        """
        return sum(memory.forget(rows) for memory in self.memories())

    # -- predicting ----------------------------------------------------------------------------------------------

    # Not `inference_mode`: a model (or FSDP) may keep what it makes here, and must still learn with it afterwards.
    @torch.no_grad()
    def predict(self, inputs: Inputs, batch_size: int = 8192) -> Tensor:
        """The objective's predictions for inputs (B, ...), on the CPU."""
        self._set_mode(training=False)
        rows = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
        with self._chance_predicting, self.precision.autocast():
            if rows <= batch_size:
                return self._predicted(inputs)
            return torch.cat([self._predicted(part) for part in split_inputs(inputs, batch_size)])

    def _predicted(self, inputs: Inputs) -> Tensor:
        there = map_inputs(lambda value: value.to(self.device), inputs)
        return self.objective.predict(self.model(there)).cpu()

    @torch.no_grad()
    def loss_of(self, rows: Batch, batch_size: int = 8192) -> float:
        """The objective's mean loss on some rows, as the model is when it predicts."""
        self._set_mode(training=False)
        total = weight = 0.0
        with self._chance_predicting, self.precision.autocast():
            for part in rows.to(self.device).split(batch_size):
                share = float(part.total_weight())
                total += share * float(self.objective(self.model(part.inputs), part.targets, part.weights))
                weight += share
        return total / weight if weight else 0.0

    # -- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning on from here depends on, besides the weights; tensors are the live ones.

        It may be asked for after any `advance`: with steps left, `begin` (or `again`) with the same rows goes on.
        """
        self.entries.check_names()
        return {
            **self.descent.state_dict(),
            "strategies": self.strategies.state_dict(),
            "generator": self.context.generator.get_state(),
            "steps": self._steps.state_dict(),
            "random": self.random_state.state_dict(),
            "increment": self.context.increment,
            "step": self.context.step,
            "rows_independent": self._independent,
            "made_of": self._made_of(),
            "extra": self.extra.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave, for the same model and strategies.

        Raises CheckpointError that names what differs.
        """
        if "made_of" in state:
            with_state = {int(key.partition(".")[0]) for key in {**self.strategies.state_dict(), **state["strategies"]}}
            check_made_of(self._made_of(), state["made_of"], with_state)
        try:
            self.descent.load_state_dict(state)
            self.strategies.load_state_dict(state["strategies"])
        except (RuntimeError, ValueError) as error:  # torch names each leaf, with both shapes
            told = " ".join(str(error).split())
            raise CheckpointError(
                f"learner: the saved state is of another model, optimiser or list of strategies: {told}; "
                "use the same ones, or start a new run"
            ) from error
        self.strategies.to(self.device)
        self.context.generator.set_state(state["generator"].cpu())
        self._steps.load_state_dict(state["steps"])
        self.random_state.load_state_dict(state["random"])
        self.extra.load_state_dict(state.get("extra", {}))
        self.context.increment = state["increment"]
        self.context.step = state["step"]
        self._take_rows(state.get("rows_independent"))

    def _made_of(self) -> dict[str, Any]:
        return made_of(self.strategies, zip(self.context.names, self.context.parameters, strict=True))


def _shares(batches: Sequence[Batch]) -> list[float | Tensor]:
    """What the mean loss of each batch counts for in the mean over all their rows."""
    if len(batches) == 1:
        return [1.0]
    weights = [batch.total_weight() for batch in batches]
    total = sum(weights)
    return [share_of(weight, total) for weight in weights]


def _explain_batch_norm(error: ValueError) -> None:
    """ArgumentError instead, if it is BatchNorm's about too few rows."""
    if "more than 1 value per channel" in str(error):
        raise ArgumentError(
            "learner: the model has BatchNorm, which needs at least 2 rows to learn from, and there is 1; "
            "raise learner.batch_size above 1, gather more rows in an increment (stream.every), remember rows "
            "(strategy replay), use LayerNorm, or, of a BatchNorm of your own that this came from at the end of an "
            'increment, set model.rows = "together"'
        ) from error
