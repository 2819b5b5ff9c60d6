"""Checks of clients' answers, which a server does not believe."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from flwr.app import Message, RecordDict
from torch import Tensor

from federated._arrival_checks import check_arrival, check_sums
from federated._asked import Asked, Known, Refused
from federated._client_failures import FAILURE
from federated._cohort import Terms
from federated._known_tensors import tensors_of
from federated._message_records import SHARED, WORK
from federated._owner_records import NAMED, is_name
from federated._records import told
from federated._values import LATEST, MOST, MOST_NAMES, check_coming, check_finite
from federated._wire import BadCodes
from incr_core.shown import shown

__all__ = ["checked", "named"]

RULES = ("mean", "average", "sum", "max")
"""By which weights and shared state merge (`update.merge`)."""

LOSS = re.compile(r"[\w.:-]{1,100}")

SECRET = re.compile(r"[0-9a-f]{32}")

HASH = re.compile(r"([0-9a-f]{64})?")


def named(who: Mapping[str, Any]) -> tuple[str, str]:
    """The name and the secret that a client has said. Raises Refused where they are none.

    >>> named({"name": "north", "identity": "0" * 32})[0]
    'north'
    >>> named({"name": "../north", "identity": "0" * 32})
    Traceback (most recent call last):
    ...
    federated._asked.Refused: the name '../north', where up to 100 characters that can be printed, ... were expected
    """
    name, identity = who.get("name"), who.get("identity")
    if not isinstance(name, str) or not name or not isinstance(identity, str):
        raise Refused("no client's file: give its node one (node-config client='/path/x.toml')")
    if not is_name(name):
        raise Refused(f"the name {name[:100]!r}, where {NAMED} were expected")
    if not SECRET.fullmatch(identity):
        raise Refused(f"a secret of {len(identity)} characters, where 32 hexadecimal digits were expected")
    return name, identity


def checked(asked: Asked, answer: Message | None) -> RecordDict:
    """The content of an answer to a question. Raises Refused where it is none, or not what it should be."""
    if answer is None:
        raise Refused("no answer in time", silent=True)
    if answer.has_error():
        raise Refused((answer.error.reason or "no reason given")[:1000], silent=True)
    content = answer.content
    try:
        if FAILURE in content:
            raise Refused(str(content.config_records[FAILURE].get("message", "it does not say why"))[:1000])
        _check(asked, content)
    except Refused:
        raise
    except Exception as error:  # whatever it may be that a client sends
        raise Refused(f"an answer that cannot be read ({type(error).__name__})") from error
    return content


def _check(asked: Asked, content: RecordDict) -> None:
    work = content.config_records[WORK]
    for cost in ("seconds", "cpu_seconds", "memory"):
        if not 0 <= float(str(work[cost])) < math.inf:
            raise Refused(f"{cost} of work that are none")
    if not HASH.fullmatch(str(work["ledger"])):
        raise Refused("a ledger whose hash is none")
    if not 0 <= int(str(work.get("erased", 0))) < LATEST:
        raise Refused("a number of erased rows that is none")
    if "spent" in work:
        _check_budget(work)
    int(str(work["process"]))
    now = int(str(work["generation"]))
    if asked.action == "query.open":
        _check_opened(told(content))
        return
    if now not in (asked.generation, asked.generation + 1):
        raise Refused(f"a state after message {now}, where {asked.generation + 1} was expected")
    if asked.action == "evaluate.receive":
        document = told(content)
        check_coming(document["coming"])
        check_arrival(document["arrival"], asked)
        for name in ("holds", "back"):
            if not isinstance(document[name], bool):
                raise Refused(f"{name}, which is neither true nor false")
        if asked.known.timed and document["arrival"] is not None and document["coming"] is not None:
            now_at, next_at = document["arrival"]["tick"]["time"], document["coming"]["time"]
            if next_at <= now_at:  # the others would wait for it for ever
                raise Refused("a next increment that is not later than this one")
    elif asked.action in ("train.learn", "train.review"):
        document = told(content)
        rows = document["rows"]
        if type(rows) is not int or not 0 <= rows <= asked.most:
            raise Refused(f"an update of {shown(rows, 40)} rows, where at most {asked.most} can be")
        _check_steps(document["steps"], rows, asked)
        _check_losses(document["losses"])
        _decode(content, asked)
        _check_weights(tensors_of(content, "weights", asked.anchor), asked.anchor)
    elif asked.action == "evaluate.judge":
        _check_judged(told(content)["judged"])
    elif asked.action == "evaluate.compare":
        _check_compared(told(content), asked.known)
    elif asked.action == "train.consolidate":
        _check_weights(tensors_of(content, SHARED, asked.anchor), asked.shared)
        if "weights" in content:
            _check_weights(tensors_of(content, "weights", asked.anchor), asked.anchor)


def _decode(content: RecordDict, asked: Asked) -> None:
    """Replace a coded update by the weights that it stands for, which are then checked as any others."""
    if asked.wire is not None:
        try:
            asked.wire.decode(content, asked.anchor, asked.rules)
        except BadCodes as error:
            raise Refused(str(error)) from error


def _check_steps(steps: Any, rows: int, asked: Asked) -> None:
    """As many as so many rows take: by few steps that it tells of, a client would weigh more in FedNova's mean.

    Each is of `step` rows, but for the last of a pass, which has fewer, or one more where it would be a batch of one.
    A review tells none.
    """
    size, told_of = asked.known.step, shown(steps, 40)
    if type(steps) is not int or not 0 <= steps <= asked.most:
        raise Refused(f"an update of {told_of} steps, where {rows} rows were learned")
    if size and asked.action == "train.learn":
        passes, of_one = asked.known.passes if rows else 0, rows // size
        least, most = -(-rows // (size + 1)), of_one + passes
        if asked.known.once:  # and those that were held back, in one pass
            most = passes * (of_one + 1) + 1
        if not least <= steps <= most:
            raise Refused(f"an update of {told_of} steps, where {rows} rows take {least} to {most}")


def _check_budget(work: Mapping[str, Any]) -> None:
    """What is spent, and of how much."""
    known = all(isinstance(work[key], float) and 0 <= work[key] < math.inf for key in ("epsilon", "limit"))
    if not known or not isinstance(work["spent"], bool):
        raise Refused("a privacy budget that is none")


def _check_judged(sums: Tensor) -> None:
    """A number of rows, and sums over them."""
    if sums.shape != (5,) or not sums.is_floating_point() or not 0 <= float(sums[0]) <= MOST:
        raise Refused("sums over rows of the past that are none")
    check_finite({"sums over rows of the past": sums})


def _check_compared(document: Mapping[str, Any], known: Known) -> None:
    """Sums over rows held back, and what the metrics of both versions are made of."""
    _check_judged(document["sums"])
    for name in ("champion", "challenger"):
        check_sums(document[name], known, coarse=True)


def _check_opened(document: Mapping[str, Any]) -> None:
    """What a client tells of the model, which for the first one becomes everybody's."""
    Terms.of(document)
    for key in ("rules", "shared_rules"):
        if not all(rule in RULES for rule in document[key].values()):
            raise Refused(f"{key} by other names than {', '.join(RULES)}")
    for key, rules in (("weights", "rules"), ("shared", "shared_rules")):
        if document[key] and document[key].keys() != document[rules].keys():
            raise Refused(f"{key} by other names than those that have rules")
        check_finite(document[key])
    check_coming(document["coming"])


def _check_losses(losses: Mapping[str, Any]) -> None:
    if len(losses) > MOST_NAMES or not all(isinstance(name, str) and LOSS.fullmatch(name) for name in losses):
        raise Refused("a loss by a name that is none")
    if not all(math.isfinite(float(loss)) for loss in losses.values()):
        raise Refused("a loss that is not finite")


def _check_weights(weights: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
    """Weights have names, shapes and types of the anchor's, and are finite."""
    if weights.keys() != anchor.keys():
        raise Refused("weights by other names")
    for name, value in weights.items():
        mine = anchor[name]
        if value.shape != mine.shape or value.dtype != mine.dtype:
            raise Refused(
                f"{name} of {tuple(value.shape)} {value.dtype}, where {tuple(mine.shape)} {mine.dtype} was sent"
            )
    check_finite(weights)
