"""The objective of a job."""

from __future__ import annotations

from incr_core._util import build, unknown
from incr_core.errors import JobError
from incr_core.job._file import JobFile
from incr_core.job._ids import check_ids, ranks_catalogue, refuse
from incr_core.models import TableExperts
from incr_core.objectives import (
    LOSSES,
    OBJECTIVES,
    Balance,
    Binary,
    Blend,
    GrowingMulticlass,
    Loss,
    Multiclass,
    Multilabel,
    NextToken,
    Objective,
    Ranking,
    Regression,
)

__all__ = ["objective_of"]


def objective_of(job: JobFile) -> Objective:
    """The objective: a built-in one with the loss of the job, or a custom one. For several experts it wraps the
    objective of each.
    """
    check_ids(job)
    each = _of_one(job)
    if job.model.kind != "auto":
        return each
    check_auto(job)
    return Blend(each, TableExperts.LEARNED, TableExperts.SOLVED)


def check_auto(job: JobFile) -> None:
    """JobError for a job whose model cannot be made of experts, by the key that is in the way."""
    features, model = job.features, job.model
    wanted = ("binary", "multiclass", "regression")
    in_the_way = {
        f"learner.objective = {wanted[0]!r}, {wanted[1]!r} or {wanted[2]!r}, got {job.learner.objective!r}, whose "
        "predictions cannot be mixed": job.learner.objective not in wanted,
        "no model.factory, which makes another model": model.factory is not None,
        "no model.inputs, which name the arguments of a model from model.factory": bool(model.inputs),
        "no model.adapt, which changes a single network": bool(model.adapt),
        "neither federated.privacy nor federated.client_privacy, which want inputs normalised by features.ranges": (
            job.federated.privacy is not None or job.federated.client_privacy is not None
        ),
        "no features.text without model.encoder, since none of the experts reads words": bool(features.text)
        and job.model.encoder is None,
        "no learner.head, which takes the place of the last layer of a single network": job.learner.head is not None,
        "no features.ranges, since experts are weighted by errors on rows, and nothing about rows may be shared": (
            bool(features.ranges)
        ),
    }
    refuse('model.kind = "auto"', in_the_way, 'set model.kind = "mlp"')


def _of_one(job: JobFile) -> Objective:
    name = job.learner.objective
    classes = len(job.features.classes or [])
    if not classes and job.features.capacity is None and name in ("multiclass", "multilabel"):
        raise JobError(
            f"features.classes: expected those of the objective {name}, got none; name them, or let Job.resolved(), "
            "which Job.read calls, find them in the data"
        )
    if job.learner.balance is not None and name not in ("binary", "multiclass"):
        raise JobError(
            f'learner.balance: expected the objective "binary" or "multiclass", got {name!r}; leave learner.balance out'
        )
    if job.learner.balance is not None and job.learner.head is not None:
        raise JobError(
            "learner.balance: expected no learner.head, which is solved for and has no loss whose rows could count "
            "more, got both; leave one of them out"
        )
    if name == "multiclass":
        return _multiclass(job, classes)
    if name == "multilabel":
        return Multilabel(classes, _loss(job, Multilabel))
    if name == "binary":
        return Binary(_loss(job, Binary), _balance(job, 2))
    if name == "regression":
        return Regression(_loss(job, Regression))
    if name == "ranking":
        return _ranking(job)
    if job.learner.loss is not None:
        raise JobError(f"learner.loss: {name} defines its own loss; leave learner.loss out")
    if name == "next_token":
        assert job.features.vocabulary is not None  # the encoder asks for it
        return NextToken(job.features.vocabulary)
    return _own(name, job)


def _multiclass(job: JobFile, classes: int) -> Objective:
    capacity = job.features.capacity
    if capacity is None:
        return Multiclass(classes, _loss(job, Multiclass), _balance(job, classes))
    if capacity < classes:
        raise JobError(f"features.capacity: expected at least the {classes} classes named, got {capacity}")
    return GrowingMulticlass(capacity, _loss(job, GrowingMulticlass), _balance(job, capacity))


def _balance(job: JobFile, classes: int) -> Balance | None:
    """The class weights for rare classes; None if all rows count alike."""
    wanted = job.learner.balance
    return None if wanted is None else Balance(classes, **wanted.model_dump())


def _ranking(job: JobFile) -> Objective:
    wanted = job.learner.loss
    arguments = {} if wanted is None else {"loss": wanted.name, **wanted.arguments}
    ranking: Ranking = build(Ranking, arguments, "learner.loss", job.model.dimension)
    ranking.ranks_catalogue = ranks_catalogue(job)
    return ranking


def _own(name: str, job: JobFile) -> Objective:
    factory = job.named(name, "learner.objective", OBJECTIVES)
    try:
        made = factory()
    except TypeError as error:
        raise JobError(f"learner.objective: {name} cannot be called without arguments: {error}") from error
    if not isinstance(made, Objective):
        raise JobError(f"learner.objective: expected {name} to make an Objective, got {type(made).__name__}")
    return made


def _loss(job: JobFile, kind: type[Objective]) -> Loss | None:
    """The loss that the job wants instead of the objective's own."""
    wanted = job.learner.loss
    if wanted is None:
        return None
    if wanted.name not in kind.losses:
        what = f"a loss that the objective {job.learner.objective} takes"
        raise JobError(f"learner.loss.name: {unknown(what, wanted.name, kind.losses)}")
    loss: Loss = build(LOSSES[wanted.name], wanted.arguments, f"learner.loss {wanted.name}")
    return loss
