"""The learning of a job: strategies, optimiser, learning rate, early stopping, review, outer step."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from incr_core._util import build, refusal, unknown
from incr_core.errors import JobError, StrategyError
from incr_core.job._fault import as_job_error
from incr_core.job._file import JobFile
from incr_core.job._pruning import pruning_of
from incr_core.learner import SCHEDULES, EarlyStopping, OptimizerFactory, Schedule, optimizer_named
from incr_core.rounds import AGGREGATIONS, OUTERS, Aggregation, Outer, Review
from incr_core.strategies import STRATEGIES, Ridge, Strategy

__all__ = [
    "adapts_passes",
    "aggregation_of",
    "optimizer_of",
    "outer_of",
    "review_of",
    "rows_kept",
    "schedule_of",
    "stopping_of",
    "strategies_of",
]

RECENT = 5000
"""Rows kept to consolidate on, where that waits for a drift or the end of a task."""


def strategies_of(job: JobFile) -> list[Strategy]:
    """The strategies, in order."""
    made: list[Strategy] = []
    for section in job.strategy:
        kind = job.named(section.name, "strategy.name", STRATEGIES)
        try:
            made.append(build(kind, section.arguments, f"strategy {section.name}"))
        except StrategyError as error:
            if str(error).startswith(f"{section.name}."):
                raise
            raise StrategyError(f"strategy {section.name}: {error}") from error
        if not isinstance(made[-1], Strategy):
            raise JobError(
                f"strategy.name: expected {section.name} to make a Strategy, got {type(made[-1]).__name__}; "
                "name a class that inherits from incr_core.Strategy"
            )
        _check_tasks(job, section.name, made[-1], counts="every" in section.arguments)
    if (pruning := pruning_of(job)) is not None:
        made.append(pruning)
    if job.learner.head is not None:
        made.append(Ridge(job.learner.head.penalty, job.learner.head.decay))
    return made


def _check_tasks(job: JobFile, name: str, strategy: Strategy, *, counts: bool) -> None:
    """Refuse a strategy that needs tasks or boundaries the stream lacks. counts: whether it counts increments."""
    if strategy.traits.needs_tasks and job.features.task is None:
        raise JobError(
            f"strategy {name}: expected a stream whose rows tell their task, got one without; "
            "name the column in features.task"
        )
    bounded = counts or job.learner.consolidate != "increment" or job.stream.every == "file"
    if strategy.traits.needs_boundaries and not bounded:
        raise JobError(
            f"strategy {name}: expected a stream with boundaries between tasks, got one cut by "
            f'stream.every = {job.stream.every!r}; set learner.consolidate = "task" (with features.task), "drift" '
            f"or a number of rows, or stream.every = 'file', or {name}'s own `every`, in increments"
        )


@as_job_error()
def optimizer_of(job: JobFile, *, fused: bool = True) -> OptimizerFactory:
    """Makes the optimiser: any of torch.optim by name; where it has a fused form, that one."""
    wanted = job.learner.optimizer
    make = optimizer_named(wanted.name, wanted.arguments, fused=fused, root=job.root)
    known = make([nn.Parameter(torch.zeros(2, 2))]).defaults
    for group in job.learner.groups:
        for key in group.arguments.keys() - known.keys():
            raise JobError(f"learner.groups {group.match!r}: {unknown('an argument of the optimizer', key, known)}")
    return make


def schedule_of(job: JobFile) -> Schedule | None:
    """The schedule of the learning rate."""
    wanted = job.learner.schedule
    if wanted is None:
        return None
    name = wanted.name if ":" in wanted.name else wanted.name.lower().removesuffix("lr")
    kind = job.named(name, "learner.schedule.name", SCHEDULES)
    arguments = wanted.arguments
    each = arguments.pop("each", "step")
    try:
        optimizer = optimizer_of(job)([nn.Parameter(torch.zeros(1))])
        scheduler = kind(optimizer, **arguments)
        optimizer.step()
        scheduler.step()  # some look at their arguments only now
    except (TypeError, ValueError, ArithmeticError) as error:
        raise JobError(f"learner.schedule: {refusal(error, kind)}") from error
    return Schedule(partial(kind, **arguments), each)


def adapts_passes(job: JobFile) -> bool:
    """Whether the passes over an increment follow from the rows known before it."""
    if job.learner.epochs != "auto":
        return False
    if job.model.kind != "auto":
        raise JobError(
            f'learner.epochs = "auto": expected model.kind = "auto", whose statistics count the rows of all who learn, '
            f'got "{job.model.kind}"; say how many passes'
        )
    return True


def stopping_of(job: JobFile) -> EarlyStopping | None:
    """Early stopping: the rows held back and the patience in passes; None if all passes are made."""
    settings = job.learner
    if settings.validation is None:
        return None
    if settings.most_epochs == 1 and (settings.warm_epochs or 1) == 1:
        raise JobError(
            "learner.validation: expected several passes, of which some may be left out, got one; "
            "raise learner.epochs or learner.warm_epochs"
        )
    if job.cluster.average_every:
        raise JobError(
            "learner.validation: expected cluster.average_every = 0, since replicas that stop at different passes "
            f"cannot meet between them, got {job.cluster.average_every!r}"
        )
    return EarlyStopping(settings.validation, settings.patience)


def rows_kept(job: JobFile) -> int | None:
    """Rows to keep for consolidating, where that is not done after every increment."""
    consolidate = job.learner.consolidate
    return consolidate if isinstance(consolidate, int) else None if consolidate == "increment" else RECENT


def review_of(job: JobFile) -> Review | None:
    """When to look back at the history; None where it is not asked for."""
    section = job.review
    if section is None:
        return None
    if isinstance(section.every, str) and job.stream.predict_at is None:
        raise JobError(
            f'review.every: expected a predict_at column with every = "{section.every}", got none; '
            "name the time column, or give a number of increments"
        )
    for strategy in strategies_of(job):
        if strategy.traits.alone and not strategy.off:
            raise JobError(
                f"review: expected strategies beside which a pass over the history lasts, got "
                f"{type(strategy).__name__}: {strategy.traits.alone}; leave [review] out"
            )
    return Review(section.every, section.rows, job.learner.seed)


def outer_of(job: JobFile) -> Outer:
    """The outer step, which makes the next anchor from the mean of updates."""
    outer: Outer = build(job.named(job.outer.name, "outer.name", OUTERS), job.outer.arguments, "outer")
    return outer


def aggregation_of(job: JobFile) -> Aggregation:
    """The aggregation of the updates of federated clients."""
    wanted = job.federated.aggregation
    kind = job.named(wanted.name, "federated.aggregation.name", AGGREGATIONS)
    # What clients' optimiser has anyhow is said once.
    theirs = job.learner.optimizer.arguments
    known = {name: theirs[name] for name in getattr(kind, "of_clients", ()) if name in theirs}
    found = build(kind, known | wanted.arguments, "federated.aggregation")
    if not isinstance(found, Aggregation):
        raise JobError(
            f"federated.aggregation: expected {wanted.name} to make an Aggregation, got {type(found).__name__}; name a "
            "class that inherits from incr_core.rounds.Aggregation"
        )
    return found
