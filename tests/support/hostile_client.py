"""Answers that no honest client gives, each by a name: what is changed of an honest one, and why it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from federated._flower_privates import flat_array
from federated._known_tensors import SAME
from federated._message_records import SHARED, WORK
from federated._records import pack, tell, told, unpack
from incr_core.metrics import Packed

__all__ = ["HOSTILE", "Spoil", "tells"]

Spoil = Callable[[RecordDict], None]

MARKUP = "<script>alert(1)</script>\x1b[2J\x07"


def tells(*path: str, value: Any) -> Spoil:
    """Another value at a place of what is told."""

    def spoil(content: RecordDict) -> None:
        document = told(content)
        inner = document
        for key in path[:-1]:
            inner = inner[key]
        if value is ...:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value(inner[path[-1]]) if callable(value) else value
        content.update(tell(document))

    return spoil


def works(**changes: Any) -> Spoil:
    """Other words on what the message took."""

    def spoil(content: RecordDict) -> None:
        content[WORK] = ConfigRecord({**content.config_records[WORK], **changes})

    return spoil


def packs(record: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    """Other tensors."""

    def spoil(content: RecordDict) -> None:
        tensors = unpack(content.array_records[record], copy=True)
        change(tensors)
        content[record] = pack(tensors)

    return spoil


def first(tensors: Mapping[str, torch.Tensor]) -> str:
    return next(name for name, value in tensors.items() if value.is_floating_point() and value.dim())


def set_first(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], object]:
    def apply(tensors: dict[str, torch.Tensor]) -> None:
        tensors[first(tensors)] = change(tensors[first(tensors)])

    return apply


def unfinite(sums: Packed) -> Packed:
    spoilt = {name: np.asarray(value) * np.nan for name, value in sums.items() if not isinstance(value, Mapping)}
    return {**sums, **spoilt} or {"auc": np.array([np.nan])}


def thin(**changes: Any) -> Spoil:
    """A thinned histogram that is none."""

    def spoil(sums: dict[str, Any]) -> dict[str, Any]:
        honest = {"shape": [3, 4096], "at": np.array([5, 7]), "values": np.ones(2)}
        return {**sums, "scores": {**honest, **changes}}

    return tells("arrival", "statistics", value=spoil)


def pickles(content: RecordDict) -> None:
    """A pickle in place of tensors: nobody opens it."""
    bomb = b"cos\nsystem\n(S'touch opened'\ntR."
    content["weights"] = ArrayRecord()
    for name in ("layout", "tensors"):
        content.array_records["weights"][name] = Array("object", (1,), "pickle", bomb)


def layout(change: Callable[[Any], Any]) -> Spoil:
    """Another layout of the buffer: offsets and shapes that do not fit it."""

    def spoil(content: RecordDict) -> None:
        record = content.array_records["weights"]
        document = change(json.loads(bytes(record["layout"].data)))
        other = flat_array(np.frombuffer(json.dumps(document).encode(), np.uint8))
        changed = ArrayRecord()
        changed["layout"], changed["tensors"] = other, record["tensors"]
        content["weights"] = changed

    return spoil


def equals(key: str, equal: object) -> Spoil:
    """Names of tensors of the anchor in place of tensors."""

    def spoil(content: RecordDict) -> None:
        content[SAME] = ConfigRecord({**content.config_records[SAME], key: json.dumps(equal)})

    return spoil


def swaps(content: RecordDict) -> None:
    """Leave a weight out, and name one of another shape in its place."""
    packs("weights", lambda all: all.pop("model.layers.0.bias"))(content)
    honest = json.loads(str(content.config_records[SAME]["weights"]))
    equals("weights", [*honest, [0, "model.layers.0.bias", "model.layers.0.weight"]])(content)


def empties(content: RecordDict) -> None:
    content.clear()


RECEIVE, LEARN, CONSOLIDATE = "evaluate.receive", "train.learn", "train.consolidate"

HOSTILE: dict[str, tuple[str, Spoil, str]] = {
    # what a client tells of its rows
    "negative count": (RECEIVE, tells("arrival", "labelled", value=-5), "labelled = -5"),
    "huge count": (RECEIVE, tells("arrival", "labelled", value=1 << 40), "labelled = 1099511627776"),
    "count of another type": (RECEIVE, tells("arrival", "scored", value="12"), "scored = '12'"),
    "count that is a truth": (RECEIVE, tells("arrival", "labelled", value=True), "labelled = True"),
    "count that is a fraction": (RECEIVE, tells("arrival", "bad", value=1.5), "bad = 1.5"),
    "absurd time": (RECEIVE, tells("arrival", "tick", "time", value=1 << 70), "without a name and a time"),
    "time to come": (RECEIVE, tells("coming", value={"time": "soon", "warm": False}), "coming = 'soon'"),
    "time that stands still": (RECEIVE, tells("coming", "time", value=0), "not later than this one"),
    "warm of another type": (RECEIVE, tells("arrival", "tick", "warm", value="no"), "without a name and a time"),
    "unfinite sums": (RECEIVE, tells("arrival", "statistics", value=unfinite), "sums for metrics"),
    "thinned sums that are not finite": (RECEIVE, thin(values=np.array([1.0, np.inf])), "sums for metrics"),
    "thinned sums of no numbers": (RECEIVE, thin(values=np.array([MARKUP, MARKUP])), "sums for metrics"),
    "thinned sums of other dimensions": (RECEIVE, thin(shape=[12288]), "sums for other metrics"),
    "thinned sums of a gigantic shape": (RECEIVE, thin(shape=[1 << 20, 1 << 20]), "thinned sums without a shape"),
    "thinned sums of a negative shape": (RECEIVE, thin(shape=[-3, -4096]), "thinned sums without a shape"),
    "thinned sums of no shape": (RECEIVE, thin(shape=MARKUP), "thinned sums without a shape"),
    "thinned sums of many dimensions": (RECEIVE, thin(shape=[1] * 100), "thinned sums without a shape"),
    "thinned sums at places too large": (RECEIVE, thin(at=np.array([5, 12288])), "thinned sums at places"),
    "thinned sums at places below 0": (RECEIVE, thin(at=np.array([-1, 7])), "thinned sums at places"),
    "thinned sums at a place twice": (RECEIVE, thin(at=np.array([7, 7])), "thinned sums at places"),
    "thinned sums at too few places": (RECEIVE, thin(at=np.array([7])), "thinned sums at places"),
    "thinned sums at places of another type": (RECEIVE, thin(at=np.array([5.0, 7.0])), "thinned sums at places"),
    "sums of another kind": (RECEIVE, tells("arrival", "statistics", value=[MARKUP]), "cannot be read"),
    "a slice of no job": (RECEIVE, tells("arrival", "sliced", value={MARKUP: [12, {}]}), "which the job does not name"),
    "sums by other names": (RECEIVE, tells("arrival", "statistics", value={MARKUP: [1.0]}), "sums for metrics"),
    "statistics of nothing": (
        RECEIVE,
        tells("arrival", "observed", value={"model.none": torch.ones(3)}),
        "statistics of model.none",
    ),
    "probes that nobody asked for": (RECEIVE, tells("arrival", "probed", value=[torch.ones(9, 9)]), "probes"),
    "tasks of another kind": (RECEIVE, tells("arrival", "tasks", value=[MARKUP]), "tasks"),
    "no arrival at all": (RECEIVE, tells("arrival", value=...), "cannot be read"),
    "unfinite seconds": (RECEIVE, tells("arrival", "seconds", value=float("nan")), "seconds that are not finite"),
    "gigantic seconds of work": (LEARN, works(seconds="nan"), "seconds"),
    # what it has learned
    "more rows than offered": (LEARN, tells("rows", value=1_000_000), "an update of 1000000 rows"),
    "no steps": (LEARN, tells("steps", value=0), "an update of 0 steps, where"),
    "more steps than such rows take": (LEARN, tells("steps", value=lambda steps: steps + 3), "steps, where"),
    "rows of another type": (LEARN, tells("rows", value="80"), "an update of 80 rows"),
    "unfinite loss": (LEARN, tells("losses", value={"loss": float("inf")}), "a loss that is not finite"),
    "losses by other names": (LEARN, tells("losses", value={MARKUP: 1.0}), "a loss by a name that is none"),
    "weights not finite": (LEARN, packs("weights", set_first(lambda w: w.fill_(torch.nan))), "not finite"),
    "weights of another shape": (LEARN, packs("weights", set_first(lambda w: w[:1])), "was sent"),
    "weights of another type": (LEARN, packs("weights", set_first(lambda w: w.half())), "was sent"),
    "weights by other names": (LEARN, packs("weights", lambda all: all.pop(first(all))), "weights by other names"),
    "weights that equal none": (LEARN, equals("weights", [[0, "model.layers.0.weight", "../x"]]), "cannot be read"),
    "weights that equal others": (
        LEARN,
        equals("weights", [[0, "objective.x", "model.layers.0.bias"]]),
        "by other names",
    ),
    "weights that equal those of another shape": (LEARN, swaps, "was sent"),
    "weights that equal no tensors": (LEARN, equals("weights", MARKUP), "cannot be read"),
    "weights far away": (LEARN, packs("weights", set_first(lambda w: w + 1e6)), "moved by "),
    "a pickle": (LEARN, pickles, "cannot be read"),
    "a layout beyond its buffer": (
        LEARN,
        layout(lambda told: json.loads(json.dumps(told).replace("16", "1600000"))),
        "cannot be read",
    ),
    "a layout that is none": (LEARN, layout(lambda told: MARKUP), "cannot be read"),
    "nothing": (LEARN, empties, "cannot be read"),
    "a later generation": (LEARN, works(generation=10_000), "a state after message 10000"),
    "a generation of another type": (LEARN, works(generation=MARKUP), "cannot be read"),
    "a gigantic ledger": (LEARN, works(ledger="f" * 10_000_000), "a ledger whose hash is none"),
    "a ledger that is markup": (LEARN, works(ledger=MARKUP), "a ledger whose hash is none"),
    # what its strategies share
    "shared state not finite": (CONSOLIDATE, packs(SHARED, set_first(lambda w: w.fill_(torch.inf))), "not finite"),
    "shared state of another shape": (CONSOLIDATE, packs(SHARED, set_first(lambda w: w[:1])), "was sent"),
    "shared state by other names": (CONSOLIDATE, packs(SHARED, lambda all: all.pop(first(all))), "by other names"),
}
"""What is done -> the question that is answered so, how, and what the server says of it."""
