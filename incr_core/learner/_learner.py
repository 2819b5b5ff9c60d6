"""The update rule: a model, an objective, an optimiser and strategies, learning from rows as they come.

A learner is made here and walks through increments; the step it takes is `Step.take`, in one place. Every engine runs
this class and no other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from incr_core.batch import Batch, Limit, Steps
from incr_core.errors import ArgumentError
from incr_core.learner._division import Division, Rows
from incr_core.learner._forwards import Forwards
from incr_core.learner._graphed_step import GraphedStep, warn_eager, why_not_graphed
from incr_core.learner._judging import judged
from incr_core.learner._mergeable import Mergeable
from incr_core.learner._optimizer_step import Descent
from incr_core.learner._optimizers import OptimizerFactory, optimizer_for
from incr_core.learner._predicting import Predicting
from incr_core.learner._private_step import PrivateGradient, why_not_private
from incr_core.learner._resuming import Resuming
from incr_core.learner._schedule import Groups, Schedule
from incr_core.learner._step import Step, explain_batch_norm
from incr_core.memories import Memory
from incr_core.models import Entries, ExtraState, OwnGenerators, keep_frozen_in_eval
from incr_core.numerics import BatchNorm, Precision, draws_only_from_torch, global_random_state, rewound, whole
from incr_core.objectives import Blend, Objective
from incr_core.strategies import Context, Hooks, Strategy
from incr_core.update import Update, Weights

__all__ = ["Learner"]


class Learner(Mergeable, Predicting, Resuming):
    """Learn increments of rows, one after another, and keep what was known.

    model: any `nn.Module` from a batch's inputs to an output; already on its device, already sharded if it is to be.
        Inputs that are a dict are given by name where its forward takes them so (`models.takes_by_name`); of an answer
        that is no tensor the `logits`, or the first of a tuple, are the output (`models.answer_of`).
    objective: what the output is for.
    optimizer: makes the optimiser from the parameters, like `torch.optim.Adam` or a `functools.partial` of one; or
        what a job says: "adam", or {"name": "adam", "lr": 0.003}.
    strategies: applied in this order, but for hooks that declare a phase (`Traits.phases`).
    batch_size, accumulate: an optimiser step follows the mean loss of `accumulate` batches of `batch_size` rows.
        It is exact: the same step, to rounding, as one batch of `accumulate * batch_size` rows, whatever the tail
        and the weights (but for layers that look at other rows, like BatchNorm, or at chance, like Dropout).
    epochs: passes over an increment's rows; shuffle: in a new seeded order each.
    clip: the largest norm of a step's gradient, or None.
    shard: (rank, size) inside a group of workers that hold one model together.
    precision: "float32", or "bfloat16" and "float16" for autocast forwards. float16 scales the loss up before the
        backward and the gradients down after it; a backward that overflows is run again at a smaller scale, and where
        none is small enough the update reports an infinite "norm of the gradient", and the step is not taken.
    schedule: changes the learning rate; None: it stays.
    groups: weights by name pattern, and the optimiser's arguments for them (see `grouped`).
    rows: whether the model treats each row of a batch alone, so that shards may divide its rows. "together": it does
        not, and each shard takes the whole batch. "independent": it does, or is to be taken so: chance (Dropout) then
        is each shard's own, BatchNorm sees a shard's rows, and buffers that differ are merged after a round. None:
        found out from the first rows (`rows_independent`), together where that cannot tell.
    graphs: whether to record steps on a GPU as CUDA graphs and replay them, where nothing forbids it: `why_eager` says
        what does. A model must then do the same at each step: what Python decides in its forward is decided once.
    typical: rows of which running statistics are made, in place of those that are learned (`observe`).

    Of its attributes, `descent` steps the optimiser and `extra` is what modules keep besides tensors. `consolidates`:
    whether `end` changes anything; `spans`: whether `begin` or `end` does; `remakes`: whether `end` changes the model.

    With BatchNorm, or rows that belong together, a last batch of one row joins the batch before it: there is nothing to
    learn from one. Parts of the model that are frozen stay in eval mode (`models.keep_frozen_in_eval`).

    >>> from incr_core.objectives import Binary
    >>> learner = Learner(nn.Linear(2, 1), Binary(), torch.optim.SGD, batch_size=2)
    >>> rows = Batch(torch.randn(5, 2), torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]))
    >>> learner.learn(rows).num_rows
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
        graphs: bool = False,
        typical: Batch | None = None,
    ) -> None:
        _check(batch_size, accumulate, epochs, rows)
        self.model = model
        self.objective = objective
        self.batch_size = batch_size
        self.epochs = epochs
        self.typical = typical
        self.shard = shard
        self.strategies = nn.ModuleList(strategies)

        self.entries = Entries(model=model, objective=objective)
        self.extra = ExtraState(model=model, objective=objective)
        keep_frozen_in_eval(model)
        trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if not trainable and not Hooks(strategies).derive:
            raise ArgumentError("learner: the model has no parameter with requires_grad; there is nothing to learn")
        if not trainable and shard[1] > 1:
            raise ArgumentError(
                "cluster.shards: expected 1 for a model whose weights are worked out and not learned by steps, got "
                f"{shard[1]}; use replicas"
            )
        parameters = list(trainable.values())
        some: Tensor = next(chain(parameters, model.parameters(), model.buffers()))
        self.device = some.device
        self.objective.to(self.device)
        self.precision = Precision(precision, self.device, sharded=shard[1] > 1)
        self.precision.check(trainable)
        self.hooks = Hooks(strategies)
        self.optimizer, sparse = optimizer_for(
            model, optimizer, groups, sharded=shard[1] > 1, edited=bool(self.hooks.after_backward)
        )
        self.descent = Descent(
            self.optimizer, parameters, clip=clip, schedule=schedule, scale=self.precision.scale, sparse=sparse
        )
        others = not draws_only_from_torch(model, objective, *strategies)
        self.own_generators = OwnGenerators(seed, model=model, objective=objective)
        self.random_state = global_random_state(seed, self.device, others=others)
        self.context = Context(
            model,
            objective,
            self.optimizer,
            torch.Generator(self.device).manual_seed(seed),
            self.device,
            names=list(trainable),
            parameters=parameters,
            rewound=self._rewound,
        )
        with self.random_state:
            for strategy in strategies:
                strategy.attach(self.context)
        self.strategies.to(self.device)
        self.check_shared()

        pairs_rows = rows == "together" or any(isinstance(layer, BatchNorm) for layer in model.modules())
        smallest = 2 if pairs_rows else 1
        self.steps = Steps(batch_size, accumulate, shuffle and bool(parameters), seed, smallest)
        self.forwards = Forwards(
            model,
            objective,
            self.random_state,
            self.extra,
            strategies=bool(strategies),
            pairs_rows=pairs_rows,
            sharded=shard[1] > 1,
        )
        self.division = Division(
            model,
            objective,
            some,
            shard,
            rows,
            possible=objective.rowwise and all(one.traits.rowwise or one.off for one in strategies),
            chance=self.forwards.chance,
            smallest=smallest,
        )
        self._step = Step(
            self.context,
            self.hooks,
            self.descent,
            self.precision,
            self.division,
            pairs_rows=pairs_rows,
            strategies=bool(strategies),
        )
        self.why_eager = "it is not asked for"
        if graphs and not parameters:
            self.why_eager = "there are no steps"
        elif graphs:
            self.why_eager = why_not_graphed(self.descent, self.hooks, self.precision, shards=shard[1], sparse=sparse)
        if graphs and self.why_eager and self.device.type == "cuda":
            warn_eager(self.why_eager)
        self.graphs = None if self.why_eager else GraphedStep(self._step)
        self.alone: str | None = None  # why it cannot be learned together with others (`why_alone`), once that is asked
        self.stacks = False  # whether that was tried out
        self._untried = True  # no forward has been seen, which could make tensors of its own
        stepped = schedule is not None and schedule.each == "increment"
        self.consolidates = bool(self.hooks.end) or any(one.traits.shared for one in strategies) or stepped
        self.spans = self.consolidates or bool(self.hooks.begin)
        self.remakes = any(one.traits.remakes and not one.off for one in strategies)

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
        if not (self.steps.unfinished and increment in (None, context.increment)):
            self.steps.close()
            context.increment = context.increment + 1 if increment is None else increment
            if self.hooks.begin and opens:
                with self.random_state:
                    for hook in self.hooks.begin:
                        hook(context)
        self.again(labelled, passes)

    def again(self, labelled: Batch, passes: int | None = None) -> None:
        """Lay out more passes over the rows of an increment that has begun: its next round."""
        labelled = labelled.to(self.device)
        if self.division.untried:
            self.forwards.set_mode(training=True)
            self.division.try_out(labelled.slice(0, max(self.batch_size, 2 * self.division.size)))
        self.steps.begin(labelled, self.epochs if passes is None else passes)

    @property
    def rows_known(self) -> float:
        """How many rows all participants have learned, where the objective counts them; else 0."""
        return float(self.objective.rows_before) if isinstance(self.objective, Blend) else 0.0

    @property
    def divides(self) -> bool:
        """Whether each shard takes some of a batch's rows; what a forward does to buffers then differs between them."""
        return self.division.divides

    def steps_in(self, rows: int, passes: int | None = None) -> int:
        """How many optimiser steps `passes` over that many rows take."""
        return self.steps.count(rows, self.epochs if passes is None else passes)

    def advance(self, steps: Limit = None) -> Update:
        """Take the next `steps` optimiser steps of the increment (default: all that are left)."""
        self.forwards.set_mode(training=True)
        self._step.losses = {}
        self.context.raised = self.descent.factor
        rows, take = 0, self._step.take
        if self.graphs is not None:
            self.graphs.begin()
            take = self.graphs.take
        if not self.context.parameters:  # there is no step to take
            take = self._counted
        with self.forwards.learning:
            try:
                for batches in self.steps.take(steps):
                    rows += take(batches)
            except ValueError as error:
                explain_batch_norm(error)
                raise
        self.entries.check_constants()
        if self._untried and rows:
            self.entries.check_names()
            self.extra.check_numbers()
            self._untried = False
        losses = {
            name: float(whole(total) if isinstance(total, Tensor) else total)
            for name, total in self._step.losses.items()
        }
        return Update(self.weights, rows, losses)

    def _counted(self, batches: list[Batch]) -> int:
        """A step that moves nothing, over rows that strategies take in when the increment ends."""
        self.context.step += 1
        return sum(map(len, batches))

    def judge_experts(self, labelled: Batch) -> Weights:
        """What rows about to be learned say of experts, where the model has several (`judged`)."""
        return judged(self, labelled)

    def rehearse(self, rows: Batch) -> Update:
        """One more pass over rows that were learned before, of which memories, having seen them, are not told."""
        self.again(rows, 1)
        self._step.after_step = self.hooks.after_rehearsal
        try:
            return self.advance()
        finally:
            self._step.after_step = self.hooks.after_step
            self.steps.close()

    def end(self, labelled: Batch, *, derives: bool = True) -> None:
        """Finish the increment: let the strategies consolidate what was learned.

        derives: False where what they share is merged with others' first, and `derive` called then.
        """
        if self.hooks.end:
            labelled = labelled.to(self.device)
            with self.random_state:
                for hook in self.hooks.end:
                    hook(self.context, labelled)
            if derives:
                self.derive()
        if self.descent.schedule is not None:
            self.descent.schedule.after("increment")
        self.steps.close()

    @property
    def answers_itself(self) -> bool:
        """Whether a strategy may give this participant weights of its own to predict with."""
        return any(
            type(one).answering is not Strategy.answering for one in self.strategies if isinstance(one, Strategy)
        )

    def answering(self) -> AbstractContextManager[None] | None:
        """Inside, the model has the weights by which this participant predicts its rows; None where no strategy gives
        it any of its own."""
        found = (one.answering(self.context) for one in self.strategies if isinstance(one, Strategy))
        return next((one for one in found if one is not None), None)

    def own_weights(self) -> Weights:
        """Copies of those weights; none where there are none."""
        if (answering := self.answering()) is None:
            return {}
        with answering:
            return {name: value.clone() for name, value in self.weights().items()}

    @property
    def private(self) -> PrivateGradient | None:
        """What hides each row, where rows are hidden."""
        return self._step.private

    def hide_rows(self, clip: float, noise: float) -> PrivateGradient:
        """From now on take steps that hide each row (DP-SGD); its `source` must be given before rows are learned.

        clip: the largest norm of a row's gradient. noise: the standard deviation of what is added, by the clip.
        ArgumentError where rows cannot be hidden.
        """
        if why := why_not_private(self):
            raise ArgumentError(f"privacy: expected a learner that can hide each row, got one that cannot: {why}")
        self._step.private = PrivateGradient(self.context, clip, noise)
        self.why_eager, self.graphs = "the gradient of each row is clipped", None
        self.alone = "the gradient of each row is clipped"
        return self._step.private

    @contextmanager
    def _rewound(self) -> Iterator[None]:
        """Afterwards random numbers, and what modules keep besides tensors, are as before."""
        drawn, kept = self.own_generators.state_dict(), copy.deepcopy(self.extra.state_dict())
        with rewound(self.device):
            try:
                yield
            finally:
                self.own_generators.load_state_dict(drawn)
                self.extra.load_state_dict(kept)

    def memories(self) -> list[Memory]:
        """The memories of its strategies."""
        return [module for module in self.strategies.modules() if isinstance(module, Memory)]

    def drop(self, rows: Tensor) -> int:
        """Delete the rows with these ids (n,) from all memories (`Memory.drop`); returns how many were held.

        Of a run on disk, with everything else that it keeps of rows: `incr_core.Run.erase`, or `incr forget`.
        """
        return sum(memory.drop(rows) for memory in self.memories())


def _check(batch_size: int, accumulate: int, epochs: int, rows: str | None) -> None:
    if batch_size < 1 or accumulate < 1 or epochs < 1:
        raise ArgumentError(
            "learner: batch_size, accumulate and epochs must each be at least 1, "
            f"got {batch_size}, {accumulate} and {epochs}"
        )
    if rows not in (None, "independent", "together"):
        raise ArgumentError(f'learner.rows: expected "independent" or "together", got {rows!r}')
