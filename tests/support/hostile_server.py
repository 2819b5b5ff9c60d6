"""Orders that no honest server gives, each by a name: none of them may reach beyond the owner's own folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from federated._consent import offered
from federated._holdings import Holdings
from federated._known_tensors import version_of
from federated._message_records import ANCHOR, ORDER, ROWS, SHARED
from federated._records import pack
from federated.client_app import app
from tests.support.federations import deployed
from tests.support.heard_anchors import carrying

__all__ = ["HOSTILE", "Orders", "asks"]

Orders = Callable[[Mapping[str, Any], Mapping[str, torch.Tensor]], tuple[str, RecordDict]]
"""A message, of the order and the anchor that an honest server has just given."""


def orders(action: str, **changes: Any) -> Orders:
    """Another order."""

    def make(order: Mapping[str, Any], anchor: Mapping[str, torch.Tensor]) -> tuple[str, RecordDict]:
        return action, RecordDict({**carrying(anchor), ORDER: ConfigRecord({**order, "first": True, **changes})})

    return make


def opens(change: Callable[[dict[str, Any]], object] = lambda job: None, **changes: Any) -> Orders:
    """An order to take part, in another job."""

    def make(order: Mapping[str, Any], anchor: Mapping[str, torch.Tensor]) -> tuple[str, RecordDict]:
        document = json.loads(offered(deployed()))
        change(document)
        new: dict[str, Any] = {
            "run": "0" * 16,
            "generation": -1,
            "index": 0,
            "describe": True,
            "job": json.dumps(document),
        }
        return "query.open", RecordDict({ORDER: ConfigRecord({**new, **changes})})

    return make


def sends(action: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Orders:
    """Other weights."""

    def make(order: Mapping[str, Any], anchor: Mapping[str, torch.Tensor]) -> tuple[str, RecordDict]:
        tensors = {name: value.clone() for name, value in anchor.items()}
        change(tensors)
        return action, RecordDict({**carrying(tensors), ORDER: ConfigRecord({**order, "first": True})})

    return make


def reviews(rows: list[int]) -> Orders:
    """Rows of the history."""

    def make(order: Mapping[str, Any], anchor: Mapping[str, torch.Tensor]) -> tuple[str, RecordDict]:
        numbers = pack({"rows": torch.tensor(rows, dtype=torch.int64)})
        content = RecordDict({**carrying(anchor), ROWS: numbers, ORDER: ConfigRecord(dict(order))})
        return "train.review", content

    return make


def follows(**told: Any) -> Orders:
    return orders("train.follow", orders=json.dumps(told))


def versions(**changes: str) -> Orders:
    """Changes of an anchor, of another version than those that there are, or equal to tensors that are none."""

    def make(order: Mapping[str, Any], anchor: Mapping[str, torch.Tensor]) -> tuple[str, RecordDict]:
        records = carrying(anchor)
        beside = version_of(ANCHOR)
        records[beside] = ConfigRecord({**records[beside], **changes})
        return "train.learn", RecordDict({**records, ORDER: ConfigRecord({**order, "first": True})})

    return make


def shares(order: Mapping[str, Any], anchor: Mapping[str, torch.Tensor]) -> tuple[str, RecordDict]:
    content = RecordDict({**carrying(anchor), **Holdings(SHARED).sending({"../x": torch.ones(3)}).records(0)})
    content[ORDER] = ConfigRecord({**order, "orders": "{}"})
    return "train.follow", content


def put(section: str, key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda job: job.setdefault(section, {}).__setitem__(key, value)


MARKUP = "<script>alert(1)</script>\x1b[2J"

HOSTILE: dict[str, Orders] = {
    # code
    "a model of any module": opens(put("model", "factory", "os:system")),
    "code beside the data": opens(put("model", "factory", "planted:Model")),
    "an optimiser of any module": opens(put("learner", "optimizer", {"name": "subprocess:run"})),
    "a memory of any module": opens(lambda job: job["strategy"].append({"name": "replay", "memory": "shutil:rmtree"})),
    # paths and columns
    "a path": opens(put("stream", "path", "/etc/passwd")),
    "a folder": opens(folder="/etc", client="../../x", version="../../../x"),
    "a root": opens(lambda job: job.update(root="/")),
    "a column that is not offered": opens(put("features", "numeric", ["height", "secret"])),
    "a run that is a path": opens(run="../../../escaped"),
    "a run that is absolute": opens(run="/tmp/escaped"),
    "a run that is markup": opens(run=MARKUP),
    "a run with a line break": opens(run="0" * 16 + "\n"),
    "a job that is none": opens(lambda job: job.clear()),
    "a job that is deep": opens(job="[" * 100_000),
    "a number that is none": opens(index="1e99"),
    # where the client stands
    "a run that was never": orders("train.learn", run="f" * 16),
    "a generation to come": orders("train.learn", generation=10_000_000_000),
    "a generation before all": orders("train.learn", generation=-7),
    "a generation that is a path": orders("train.learn", generation="../../x"),
    "a wire of no kind": orders("train.learn", wire="pickle", feedback=True),
    "a share of nothing": orders("train.learn", wire="int8", feedback=True, top_k=-0.5),
    "a huge number": orders("evaluate.receive", number=1 << 62),
    "a number of another type": orders("evaluate.receive", number="x" * 1_000_000),
    # weights and rows
    "weights of other shapes": sends("train.learn", lambda all: all.update(dict.fromkeys(all, torch.ones(1)))),
    "weights by other names": sends("train.learn", lambda all: all.clear()),
    "weights that are not finite": sends("train.learn", lambda all: [value.fill_(torch.nan) for value in all.values()]),
    "one row of the history": reviews([0]),
    "rows that it never had": reviews([1 << 39]),
    "rows of a negative number": reviews([-1, -2]),
    "a state that is shared by other names": shares,
    "changes of no version": versions(since="../../x"),
    "changes without an end": versions(since="f" * 10_000_000),
    "a tensor of the anchor that is none": versions(equal=json.dumps({"model.layers.0.weight": "../x"})),
    "equal tensors in a tree": versions(equal="[" * 100_000),
    # what is ordered besides
    "a memory without end": follows(enlarge=1e15),
    "a rate that is none": follows(rate="fast"),
    "an order that is none": follows(run="rm -rf /"),
    "a question that is none": orders("query.rows"),
    "an action that is none": orders("train.upload"),
}


def asks(file: Path, hostile: Orders, order: Mapping[str, Any], anchor: Mapping[str, torch.Tensor]) -> Message | None:
    """The client's answer to such an order; None where the app has raised, which `incr client` tells by its kind."""
    action, content = hostile(order, anchor)
    message = Message(content, 11, action)
    message.metadata.__dict__["_message_id"] = "hostile"
    try:
        return app(message, Context(7, 11, {"client": str(file)}, RecordDict(), {}))
    except Exception:
        return None
