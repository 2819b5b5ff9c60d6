"""What is wrong with a client's answer: nobody has to be believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from torch import Tensor

from federated.client_app import SHARED, WORK
from federated.cohort import Terms
from federated.failures import FAILURE
from federated.records import told, unpack
from incr_core.numerics import all_finite

__all__ = ["MOST", "Asked", "Refused", "checked"]

COUNTS = ("labelled", "duplicates", "bad", "arriving", "predicted", "scored")
RULES = ("mean", "average", "sum", "max")
"""By which weights and shared state merge (`update.merge`)."""

MOST = 1 << 24
"""Rows that a client may tell of in an increment."""

LATEST = 1 << 62
"""No time is later, in microseconds."""


class Refused(Exception):
    """An answer that is left out, and why.

    silent: whether there is none.
    """

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of a client, as far as its answer must fit it.

    anchor: the weights that were sent. shared: the strategy state as the first client has told it. most: how many rows
    the answer may stand for. generation: at which the client was.
    """

    action: str
    anchor: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    most: int
    generation: int


def checked(asked: Asked, answer: Message | None) -> RecordDict:
    """The content of an answer to a question. Raises Refused where it is none, or not what it should be."""
    if answer is None:
        raise Refused("no answer in time", silent=True)
    if answer.has_error():
        raise Refused(answer.error.reason or "no reason given", silent=True)
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
    float(str(work["seconds"])), int(str(work["process"])), str(work["ledger"])
    now = int(str(work["generation"]))
    if asked.action == "query.open":
        _check_opened(told(content))
        return
    if now not in (asked.generation, asked.generation + 1):
        raise Refused(f"a state after message {now}, where {asked.generation + 1} was expected")
    if asked.action == "evaluate.receive":
        document = told(content)
        _check_coming(document["coming"])
        _check_arrival(document["arrival"], asked.anchor)
    elif asked.action in ("train.learn", "train.review"):
        document = told(content)
        rows = document["rows"]
        if not isinstance(rows, int) or not 0 <= rows <= asked.most:
            raise Refused(f"an update of {rows} rows, where at most {asked.most} can be")
        if not all(math.isfinite(float(loss)) for loss in document["losses"].values()):
            raise Refused("a loss that is not finite")
        _check_weights(unpack(content.array_records["weights"], copy=False), asked.anchor)
    elif asked.action == "evaluate.judge":
        _check_judged(told(content)["judged"])
    elif asked.action == "train.consolidate":
        _check_weights(unpack(content.array_records[SHARED], copy=False), asked.shared)
        if "weights" in content:
            _check_weights(unpack(content.array_records["weights"], copy=False), asked.anchor)


def _check_judged(sums: Tensor) -> None:
    """A number of rows, and sums over them."""
    if sums.shape != (5,) or not sums.is_floating_point() or not 0 <= float(sums[0]) <= MOST:
        raise Refused("sums over rows of the past that are none")
    _check_finite({"sums over rows of the past": sums})


def _check_opened(document: Mapping[str, Any]) -> None:
    """What a client tells of the model, which for the first one becomes everybody's."""
    Terms.of(document)
    for key in ("rules", "shared_rules"):
        if not all(rule in RULES for rule in document[key].values()):
            raise Refused(f"{key} by other names than {', '.join(RULES)}")
    for key, rules in (("weights", "rules"), ("shared", "shared_rules")):
        if document[key] and document[key].keys() != document[rules].keys():
            raise Refused(f"{key} by other names than those that have rules")
        _check_finite(document[key])
    _check_coming(document["coming"])


def _check_coming(coming: Any) -> None:
    if coming is not None and not _is_time(coming["time"]):
        raise Refused(f"coming = {coming['time']!r}, where a time was expected")


def _is_time(value: Any) -> bool:
    return isinstance(value, int) and abs(value) < LATEST


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
    _check_finite(weights)


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() and not all_finite(value):
            raise Refused(f"{name} has values that are not finite")


def _check_arrival(arrival: Any, anchor: Mapping[str, Tensor]) -> None:
    """Counts are counts, and sums are finite and of the anchor's shapes."""
    if arrival is None:
        return
    for key in COUNTS:
        if not isinstance(arrival[key], int) or not 0 <= arrival[key] < MOST:
            raise Refused(f"{key} = {arrival[key]!r}, where a number of rows was expected")
    tick = arrival["tick"]
    if not (_is_time(tick["time"]) and isinstance(tick["warm"], bool) and isinstance(tick["name"], str)):
        raise Refused("an increment without a name and a time")
    if not math.isfinite(float(arrival["seconds"])):
        raise Refused("seconds that are not finite")
    for name, value in arrival["observed"].items():
        if name not in anchor or (value.shape, value.dtype) != (anchor[name].shape, anchor[name].dtype):
            raise Refused(f"statistics of {name}, which has none of that shape")
    _check_finite(arrival["observed"])
    if not all(np.isfinite(sums).all() for sums in arrival["statistics"].values()):
        raise Refused("sums for metrics that are not finite")
