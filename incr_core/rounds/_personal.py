"""Personal weights, which stay with their participant: a personal head or personal norms (FedBN, Li et al. 2021)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from incr_core.errors import ArgumentError
from incr_core.models import matches

__all__ = ["check_not_shared", "personal_names"]

RULES = ("mean", "average")
"""Merge rules of weights that may be personal; counts and sums are always common."""


def personal_names(rules: Mapping[str, str], patterns: Sequence[str]) -> list[str]:
    """Return the names of weights that match patterns; a pattern that names a module matches all its weights.

    Args:
        rules: Merge rule of each weight, by its name in a learner.
        patterns: The patterns.

    Raises:
        ArgumentError: A pattern matches no weight that may be personal.

    Example:
        >>> rules = {"model.body.weight": "mean", "model.norm.running_mean": "average", "model.norm.seen": "sum"}
        >>> personal_names(rules, ["norm.running*"])
        ['model.norm.running_mean']
        >>> personal_names(rules, ["hed"])
        Traceback (most recent call last):
        ...
        incr_core.errors.ArgumentError: personal: expected patterns that mean weights of the model, got 'hed', which
        means none; there are body.weight, norm.running_mean
    """
    own = {name.removeprefix("model."): name for name in rules if name.startswith("model.")}
    may_be = {short: name for short, name in own.items() if rules[name] in RULES}
    for pattern in patterns:
        if not any(matches(short, [pattern, f"{pattern}.*"]) for short in may_be):
            raise ArgumentError(
                f"personal: expected patterns that mean weights of the model, got {pattern!r}, which means none; there "
                f"are {', '.join(may_be)}"
            )
    meant = [pattern for one in patterns for pattern in (one, f"{one}.*")]
    return [name for short, name in may_be.items() if matches(short, meant)]


def check_not_shared(shared: Collection[str], personal: Collection[str]) -> None:
    """Raise an ArgumentError if strategies share state of personal weights.

    Example:
        >>> check_not_shared(["0.anchor.head/weight"], ["model.head.weight"])
        Traceback (most recent call last):
        ...
        incr_core.errors.ArgumentError: personal: expected strategies that share nothing of these weights, got one that
        shares its anchor of head.weight; leave the strategy out, or let the weight be common
    """
    own = {name.removeprefix("model.").replace(".", "/"): name.removeprefix("model.") for name in personal}
    for name in shared:
        what, _, weight = name.rpartition(".")
        if weight in own:
            raise ArgumentError(
                f"personal: expected strategies that share nothing of these weights, got one that shares its "
                f"{what.partition('.')[2]} of {own[weight]}; leave the strategy out, or let the weight be common"
            )
