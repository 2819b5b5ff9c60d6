"""What is wrong with a client's answer: nobody has to be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import Message, RecordDict
from torch import Tensor

from federated.client_app import SHARED, WORK
from federated.failures import FAILURE
from federated.records import told, unpack
from incr_core.numerics import all_finite
from incr_core.storage import packing

__all__ = ["MOST", "Refused", "checked"]

COUNTS = ("labelled", "duplicates", "bad", "arriving", "predicted", "scored")
MOST = 1 << 31
"""Rows that a client may tell of in an increment."""


class Refused(Exception):
    """An answer that is left out, and why.

    silent: whether there is none.
    """

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


def checked(
    action: str, answer: Message | None, anchor: Mapping[str, Tensor] | None, most: int, generation: int
) -> RecordDict:
    """The content of an answer to a question.

    anchor: the weights that were sent. most: how many rows it may stand for. generation: at which the client was.
    Raises Refused where it is none, or not what it should be.
    """
    if answer is None:
        raise Refused("no answer in time", silent=True)
    if answer.has_error():
        raise Refused(answer.error.reason or "no reason given", silent=True)
    content = answer.content
    if FAILURE in content:
        raise Refused(str(content.config_records[FAILURE].get("message", "it does not say why"))[:1000])
    try:
        _check(action, content, anchor, most, generation)
    except Refused:
        raise
    except Exception as error:  # whatever it may be that a client sends
        raise Refused(f"an answer that cannot be read ({type(error).__name__})") from error
    return content


def _check(action: str, content: RecordDict, anchor: Mapping[str, Tensor] | None, most: int, generation: int) -> None:
    work = content.config_records[WORK]
    float(str(work["seconds"])), int(str(work["process"]))
    if action == "query.open":
        return
    if (now := int(str(work["generation"]))) not in (generation, generation + 1):
        raise Refused(f"a state after message {now}, where {generation + 1} was expected")
    if action == "evaluate.receive":
        _check_arrival(told(content)["arrival"], anchor or {})
    elif action in ("train.learn", "train.review"):
        document = told(content)
        rows = document["rows"]
        if not isinstance(rows, int) or not 0 <= rows <= most:
            raise Refused(f"an update of {rows} rows, where at most {most} can be")
        _check_weights(unpack(content.array_records["weights"], copy=False), anchor or {})
    elif action == "train.consolidate":
        _check_finite(unpack(content.array_records[SHARED], copy=False))
        if "weights" in content:
            _check_weights(unpack(content.array_records["weights"], copy=False), anchor or {})


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
    for name, value in arrival["observed"].items():
        if name not in anchor or value.shape != anchor[name].shape:
            raise Refused(f"statistics of {name}, which has none of that shape")
    _check_finite(arrival["observed"])
    _check_finite(packing.pack(arrival["statistics"])[0])
