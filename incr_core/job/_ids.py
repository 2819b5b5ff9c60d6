"""The ids of a job: checks of settings that exclude them, and the learning of their tables."""

from __future__ import annotations

from collections.abc import Mapping

from incr_core.errors import ArgumentError, JobError
from incr_core.job._file import JobFile
from incr_core.learner import check_gradients, optimizer_named

__all__ = ["check_ids", "ranks_catalogue", "refuse", "takes_sparse"]


def check_ids(job: JobFile) -> None:
    """JobError for a job whose model cannot look ids up, by the key that is in the way."""
    features, model, objective = job.features, job.model, job.learner.objective
    if model.kind == "factorisation":
        in_the_way = {
            "features.ids, the columns whose ids have factors, got none": not features.ids,
            f'learner.objective = "regression" or "binary", got "{objective}"': objective
            not in ("regression", "binary"),
            "no model.factory, which makes a model of its own": model.factory is not None,
            "no model.adapt, which changes layers that there are not": bool(model.adapt),
            "no features.text, of which it has no part": bool(features.text),
        }
        refuse('model.kind = "factorisation"', in_the_way, 'set model.kind = "mlp"')
    if model.kind == "two_towers" and objective != "ranking":
        raise JobError(
            f'model.kind = "two_towers": expected learner.objective = "ranking", got "{objective}"; set '
            'model.kind = "mlp"'
        )
    if not features.ids:
        return
    in_the_way = {
        'a model that looks ids up, got model.kind = "auto"; "mlp" and "factorisation" do': model.kind == "auto",
        "no model.factory, which makes a model of its own": model.factory is not None,
        "no learner.head, whose features learn nothing": job.learner.head is not None,
        f"no sequences of tokens, got learner.objective = {objective!r}": objective == "next_token",
        f"cluster.shards = 1, since a table is not split, got {job.cluster.shards}": job.cluster.shards != 1,
        "no features.ranges, since ids are counted as they come": bool(features.ranges),
        "neither federated.privacy nor federated.client_privacy, since no noise hides which ids there are": (
            job.federated.privacy is not None or job.federated.client_privacy is not None
        ),
    }
    refuse("features.ids", in_the_way, "name the columns in features.categorical, whose values are hashed")


def refuse(key: str, in_the_way: Mapping[str, bool], remedy: str) -> None:
    """JobError that names the first of what is in the way, by what was expected instead."""
    for expected, found in in_the_way.items():
        if found:
            raise JobError(f"{key}: expected {expected}; {remedy}, or leave the other out")


def ranks_catalogue(job: JobFile) -> bool:
    """Whether items are ranked among all that there are: those of one column of ids, which has all of them."""
    features = job.features
    return len(features.item) == 1 and features.item[0] in features.ids and job.model.factory is None


def takes_sparse(job: JobFile) -> bool:
    """Whether the optimiser takes gradients that hold only the rows looked up."""
    wanted = job.learner.optimizer
    try:
        make = optimizer_named(wanted.name, wanted.arguments, fused=False, root=job.root)
        check_gradients(make, ["ids"], ["others"])
    except ArgumentError:
        return False
    return True
