"""The update rule: a model, an objective, an optimiser and strategies, learning from rows as they arrive.

A learner is constructed here and processes increments; its step is `Step.take`. Every engine runs this class.
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
    """Learns increments of rows, one after another, without forgetting earlier ones.

    With BatchNorm, or rows that belong together, a last batch of one row is merged into the batch before it, because
    one row alone cannot be learned. Frozen parts of the model stay in eval mode (`models.keep_frozen_in_eval`).

    Args:
        model: Any `nn.Module` from a batch's inputs to an output, already on its device and already sharded if it is to
            be. Dict inputs are passed by name if its forward takes them so (`models.takes_by_name`). If it returns no
            tensor, the `logits`, or the first element of a tuple, are the output (`models.answer_of`).
        objective: The meaning of the output.
        optimizer: Creates the optimiser from the parameters, such as `torch.optim.Adam` or a `functools.partial` of it;
            or the value in a job: "adam", or {"name": "adam", "lr": 0.003}.
        strategies: The strategies, applied in this order, except hooks that declare a phase (`Traits.phases`).
        batch_size: Rows per batch.
        accumulate: Batches per optimiser step. A step follows the mean loss of all rows of its batches, exactly: it is
            the same step, to rounding, as for one batch of `accumulate * batch_size` rows, for any tail and weights
            (except with layers that combine rows, like BatchNorm, or are random, like Dropout).
        epochs: Passes over an increment's rows.
        shuffle: Whether each pass has a new seeded order.
        clip: Maximum norm of a step's gradient, or None.
        seed: Seed of all random choices.
        shard: (rank, size) within a group of workers that hold one model together.
        precision: "float32", or "bfloat16" and "float16" for autocast forwards. float16 scales the loss up before the
            backward and the gradients down after it. A backward that overflows runs again with a smaller scale; if none
            is small enough, the step is skipped and the update reports an infinite "norm of the gradient".
        schedule: Learning-rate schedule; None keeps the rate constant.
        groups: Name patterns of weights, and the optimiser's arguments for them (see `grouped`).
        rows: Whether the model treats each row of a batch alone, so that shards may divide its rows. "together": it
            does not, and each shard takes the whole batch. "independent": it does, or is to be treated so: random
            numbers (Dropout) are then drawn per shard, BatchNorm uses a shard's rows, and differing buffers are merged
            after a round. None: determined from the first rows (`rows_independent`); "together" if that is
            inconclusive.
        graphs: Whether to record steps on a GPU as CUDA graphs and replay them, if nothing prevents it; `why_eager`
            names the obstacle. The model must then do the same at each step: Python decisions in its forward are made
            once.
        typical: Rows for running statistics, instead of the learned rows (`observe`).

    Attributes:
        descent: Steps the optimiser.
        extra: Non-tensor state of the modules.
        consolidates: Whether `end` changes anything.
        spans: Whether `begin` or `end` changes anything.
        remakes: Whether `end` changes the model.

    Example:
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
                "cluster.shards: expected 1 for a model whose weights are computed, not learned by steps, got "
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
        self.why_eager = "it is not requested"
        if graphs and not parameters:
            self.why_eager = "there are no steps"
        elif graphs:
            self.why_eager = why_not_graphed(self.descent, self.hooks, self.precision, shards=shard[1], sparse=sparse)
        if graphs and self.why_eager and self.device.type == "cuda":
            warn_eager(self.why_eager)
        self.graphs = None if self.why_eager else GraphedStep(self._step)
        self.alone: str | None = None  # why it cannot be learned in a stack (`why_alone`), once determined
        self.stacks = False  # whether stacking was tested
        self._untried = True  # no forward has run yet, which could create tensors
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
        """Start an increment: notify the strategies, and prepare its steps.

        After `load_state_dict` of a state saved between two steps, it continues with the same rows at that step.

        Args:
            labelled: The rows to learn.
            passes: Passes over the rows; `epochs` by default.
            increment: Number of the increment; by default the next one.
            opens: False if strategies consolidate less often than at every increment, and are between two
                consolidations.
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
        """Prepare further passes over the rows of an increment that has begun: its next round."""
        labelled = labelled.to(self.device)
        if self.division.untried:
            self.forwards.set_mode(training=True)
            self.division.try_out(labelled.slice(0, max(self.batch_size, 2 * self.division.size)))
        self.steps.begin(labelled, self.epochs if passes is None else passes)

    @property
    def rows_known(self) -> float:
        """Number of rows that all participants have learned, if the objective counts them, otherwise 0."""
        return float(self.objective.rows_before) if isinstance(self.objective, Blend) else 0.0

    @property
    def divides(self) -> bool:
        """Whether each shard takes part of a batch's rows; forwards then change buffers differently in each shard."""
        return self.division.divides

    def steps_in(self, rows: int, passes: int | None = None) -> int:
        """Return the number of optimiser steps for `passes` over that many rows."""
        return self.steps.count(rows, self.epochs if passes is None else passes)

    def advance(self, steps: Limit = None) -> Update:
        """Take the next `steps` optimiser steps of the increment (default: all that remain)."""
        self.forwards.set_mode(training=True)
        self._step.losses = {}
        self.context.raised = self.descent.factor
        rows, take = 0, self._step.take
        if self.graphs is not None:
            self.graphs.begin()
            take = self.graphs.take
        if not self.context.parameters:  # no trainable weights, so no steps
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
        """Count a step without effect, over rows that strategies process when the increment ends."""
        self.context.step += 1
        return sum(map(len, batches))

    def rehearse(self, rows: Batch) -> Update:
        """Pass once more over rows that were learned before, without inserting them into memories again."""
        self.again(rows, 1)
        self._step.after_step = self.hooks.after_rehearsal
        try:
            return self.advance()
        finally:
            self._step.after_step = self.hooks.after_step
            self.steps.close()

    def end(self, labelled: Batch, *, derives: bool = True) -> None:
        """Finish the increment: let the strategies consolidate.

        Args:
            labelled: The rows of the increment.
            derives: False if shared state is first merged with others', and `derive` is called afterwards.
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
        """Whether a strategy may give this participant personal weights for predictions."""
        return any(
            type(one).answering is not Strategy.answering for one in self.strategies if isinstance(one, Strategy)
        )

    def answering(self) -> AbstractContextManager[None] | None:
        """Return a context in which the model has this participant's personal weights, or None if there are none."""
        found = (one.answering(self.context) for one in self.strategies if isinstance(one, Strategy))
        return next((one for one in found if one is not None), None)

    def own_weights(self) -> Weights:
        """Return copies of the personal weights; empty if there are none."""
        if (answering := self.answering()) is None:
            return {}
        with answering:
            return {name: value.clone() for name, value in self.weights().items()}

    @property
    def private(self) -> PrivateGradient | None:
        """The private gradient, if rows are hidden."""
        return self._step.private

    def hide_rows(self, clip: float, noise: float) -> PrivateGradient:
        """Take DP-SGD steps from now on, which hide each row. Its `source` must be set before rows are learned.

        Args:
            clip: Maximum norm of a row's gradient.
            noise: Standard deviation of the noise, relative to the clip.

        Raises:
            ArgumentError: Rows of this learner cannot be hidden.
        """
        if why := why_not_private(self):
            raise ArgumentError(f"privacy: expected a learner that can hide each row, got one that cannot: {why}")
        self._step.private = PrivateGradient(self.context, clip, noise)
        self.why_eager, self.graphs = "the gradient of each row is clipped", None
        self.alone = "the gradient of each row is clipped"
        return self._step.private

    @contextmanager
    def _rewound(self) -> Iterator[None]:
        """Restore random numbers and the modules' non-tensor state at exit."""
        drawn, kept = self.own_generators.state_dict(), copy.deepcopy(self.extra.state_dict())
        with rewound(self.device):
            try:
                yield
            finally:
                self.own_generators.load_state_dict(drawn)
                self.extra.load_state_dict(kept)

    def memories(self) -> list[Memory]:
        """Return the memories of its strategies."""
        return [module for module in self.strategies.modules() if isinstance(module, Memory)]

    def drop(self, rows: Tensor) -> int:
        """Delete the rows with these ids (n,) from all memories (`Memory.drop`); return how many were held.

        For a run on disk, with all other stored data of these rows, use `incr_core.Run.erase` or `incr forget`.
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
