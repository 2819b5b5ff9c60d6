"""Checks of clients' answers, which the server does not trust."""

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
"""Merge rules of weights and of shared state (`update.merge`)."""

LOSS = re.compile(r"[\w.:-]{1,100}")

SECRET = re.compile(r"[0-9a-f]{32}")

HASH = re.compile(r"([0-9a-f]{64})?")


def named(who: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name and the secret that a client has sent.

    Raises:
        Refused: They are missing or invalid.

    Example:
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
    """Return the content of an answer.

    Raises:
        Refused: There is no answer, or it is not valid.
    """
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
    except Exception as error:  # a client may send anything
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
    """Replace a coded update by the decoded weights, which are then checked as all others."""
    if asked.wire is not None:
        try:
            asked.wire.decode(content, asked.anchor, asked.rules)
        except BadCodes as error:
            raise Refused(str(error)) from error


def _check_steps(steps: Any, rows: int, asked: Asked) -> None:
    """Check that the number of steps fits the number of rows.

    Too few steps would increase a client's weight in FedNova's mean.

    Each step has `step` rows. The last of a pass has fewer, or one more to avoid a batch of one. A review reports no
    steps.
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
    """Check the spent budget and its limit."""
    known = all(isinstance(work[key], float) and 0 <= work[key] < math.inf for key in ("epsilon", "limit"))
    if not known or not isinstance(work["spent"], bool):
        raise Refused("a privacy budget that is none")


def _check_judged(sums: Tensor) -> None:
    """Check a number of rows, and sums over them."""
    if sums.shape != (5,) or not sums.is_floating_point() or not 0 <= float(sums[0]) <= MOST:
        raise Refused("sums over rows of the past that are none")
    check_finite({"sums over rows of the past": sums})


def _check_compared(document: Mapping[str, Any], known: Known) -> None:
    """Check sums over held-back rows, and the sums for the metrics of both versions."""
    _check_judged(document["sums"])
    for name in ("champion", "challenger"):
        check_sums(document[name], known, coarse=True)


def _check_opened(document: Mapping[str, Any]) -> None:
    """Check a client's description of the model. The description of one client applies to all."""
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
    """Check that weights have the names, shapes and types of the anchor, and are finite."""
    if weights.keys() != anchor.keys():
        raise Refused("weights by other names")
    for name, value in weights.items():
        mine = anchor[name]
        if value.shape != mine.shape or value.dtype != mine.dtype:
            raise Refused(
                f"{name} of {tuple(value.shape)} {value.dtype}, where {tuple(mine.shape)} {mine.dtype} was sent"
            )
    check_finite(weights)
