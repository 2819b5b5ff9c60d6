"""The Flower ClientApp: records in, a participant's calls, records out.

    query.hello          who are you?                    -> the partition the node was given
    query.open           be this client of this job      -> what the server must know of the model
    evaluate.receive     take the next increment         -> Arrival, without rows
    train.learn          learn it from this anchor       -> Update
    train.review         learn these rows of your history -> Update
    train.skip           let it go, unlearned
    train.follow         do what is ordered besides
    train.consolidate    keep what was learned           -> what the strategies share, and weights they changed
    query.save           keep your state for a version

It runs unchanged on our `RayGrid`, in Flower's simulation and on a SuperNode.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from federated import residents
from federated.failures import failure
from federated.records import pack, tell, unpack
from incr_core.errors import JobError
from incr_core.rounds import Arrival, Orders, Participant
from incr_core.update import Update

__all__ = ["app"]

ANCHOR, SHARED, ROWS, ORDER, WORK = "anchor", "shared", "rows", "order", "work"
"""Records of a message: weights to start from, merged strategy state, rows to review, what to do; and of an answer:
what it took."""

KEPT = "(kept by its owner)"
"""In place of what rows hold."""

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Tell which partition this node was given: it decides which client it is."""
    index = int(str(context.node_config.get("partition-id", -1)))
    return Message(RecordDict({ORDER: ConfigRecord({"partition-id": index})}), reply_to=message)


@app.query("open")
def open_client(message: Message, context: Context) -> Message:
    """Become a client of a job: fresh, as it was at a version, or fresh at a place in the stream."""
    order = message.content.config_records[ORDER]

    def begin() -> Participant:
        return residents.make_resident(
            context, str(order["job"]), str(order["client"]), str(order["folder"]), bool(order["travels"])
        )

    def describe(participant: Participant) -> RecordDict:
        if "version" in order:
            participant.load(Path(str(order["folder"]), str(order["version"])))
        elif "cursor" in order:
            # New in a run that goes on: nothing to take back, but the stream begins where the others are in it.
            participant.begin_at(json.loads(str(order["cursor"])))
        learner = participant.learner
        if learner.extra:
            raise JobError(
                f"{learner.extra.names[0]}: expected a model without an extra state (get_extra_state), which clients "
                "keep to themselves, so that no version would have it; keep it in buffers, or use --on local or cluster"
            )
        shared, shared_rules = learner.shared_state()
        return tell(
            {
                "weights": learner.weights() if order["describe"] else {},
                "shared": shared if order["describe"] else {},
                "rules": learner.rules(),
                "shared_rules": shared_rules,
                "consolidates": participant.consolidates,
                "spans": participant.spans,
                "shares": bool(shared),
                "remakes": learner.remakes,
                "cursor": json.dumps(participant.cursor) if order["describe"] else "",
            }
        )

    return _answer(message, context, describe, begin)


@app.evaluate("receive")
def receive(message: Message, context: Context) -> Message:
    """Take the next increment: predict what arrives, score what became known, tell what there is to learn."""

    def work(participant: Participant) -> RecordDict:
        known = int(str(message.content.config_records[ORDER]["fragments"]))
        _adopt(participant, message.content)
        arrival = participant.receive()
        return tell(
            {
                "arrival": None if arrival is None else _arrival_document(arrival),
                "fragments": list(participant.stream.fragments[known:]),
            }
        )

    return _answer(message, context, work)


@app.train("learn")
def learn(message: Message, context: Context) -> Message:
    """Learn the increment at hand, from the anchor."""

    def work(participant: Participant) -> RecordDict:
        order = message.content.config_records[ORDER]
        anchor = unpack(message.content.array_records[ANCHOR], copy=False)
        return _contribution(participant.learn(anchor, bool(order["first"])))

    return _answer(message, context, work)


@app.train("review")
def review(message: Message, context: Context) -> Message:
    """Learn rows of the history once more, from the anchor."""

    def work(participant: Participant) -> RecordDict:
        _adopt(participant, message.content)
        return _contribution(participant.review(unpack(message.content.array_records[ROWS], copy=True)["rows"]))

    return _answer(message, context, work)


@app.train("skip")
def skip(message: Message, context: Context) -> Message:
    """Let the rows of the increment at hand go."""

    def work(participant: Participant) -> RecordDict:
        participant.skip()
        return RecordDict()

    return _answer(message, context, work)


@app.train("follow")
def follow(message: Message, context: Context) -> Message:
    """Do what is ordered, with the strategy state that was merged last."""

    def work(participant: Participant) -> RecordDict:
        if SHARED in message.content:
            participant.learner.adopt_shared(unpack(message.content.array_records[SHARED], copy=False))
        participant.follow(Orders(**json.loads(str(message.content.config_records[ORDER]["orders"]))))
        return RecordDict()

    return _answer(message, context, work)


@app.train("consolidate")
def consolidate(message: Message, context: Context) -> Message:
    """Let the strategies keep what was learned, at the weights that all agreed on."""

    def work(participant: Participant) -> RecordDict:
        anchor = unpack(message.content.array_records[ANCHOR], copy=False)
        content = RecordDict({SHARED: pack(participant.consolidate(anchor))})
        if participant.learner.remakes:
            content["weights"] = pack(participant.learner.weights())
        return content

    return _answer(message, context, work)


@app.query("save")
def save(message: Message, context: Context) -> Message:
    """Keep the state for a version, on this client's own disk."""

    def work(participant: Participant) -> RecordDict:
        order = message.content.config_records[ORDER]
        participant.save(Path(str(order["folder"]), str(order["version"])))
        return RecordDict()

    return _answer(message, context, work)


def _answer(
    message: Message,
    context: Context,
    work: Callable[[Participant], RecordDict],
    begin: Callable[[], Participant] | None = None,
) -> Message:
    """Bring the participant up, let it work, settle it, and say what it took and where."""
    begun = time.perf_counter()
    try:
        participant = residents.resident_of(context) if begin is None else begin()
        content = work(participant)
        residents.answered(context, participant)
    except Exception as error:
        return Message(failure(residents.name_of(context), error), reply_to=message)
    content[WORK] = ConfigRecord({"seconds": time.perf_counter() - begun, "process": os.getpid()})
    return Message(content, reply_to=message)


def _contribution(update: Update) -> RecordDict:
    content = tell({"rows": update.rows, "losses": update.losses})
    content["weights"] = pack(update.weights)
    return content


def _adopt(participant: Participant, content: RecordDict) -> None:
    participant.learner.adopt(unpack(content.array_records[ANCHOR], copy=False))
    if SHARED in content:
        merged: Mapping[str, Tensor] = unpack(content.array_records[SHARED], copy=False)
        participant.learner.adopt_shared(merged)


def _arrival_document(arrival: Arrival) -> dict[str, Any]:
    """The arrival as nested state; refused rows are told with place and reason, their values stay with the owner."""
    document = {entry.name: getattr(arrival, entry.name) for entry in fields(arrival)}
    return document | {
        "tick": asdict(arrival.tick),
        "bad": [asdict(bad) | {"value": KEPT} for bad in arrival.bad],
        # What a fault quotes of the data stands in brackets.
        "bad_files": [asdict(bad) | {"reason": re.sub(r"\(.*\)", KEPT, bad.reason)} for bad in arrival.bad_files],
    }
