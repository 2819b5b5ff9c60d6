"""The Flower ClientApp: records in, a participant's calls, records out.

    query.hello          who are you?                    -> the partition the node was given, or its owner's name
    query.open           be a client of this job         -> what the server must know of the model
    evaluate.receive     take the next increment         -> Arrival, without rows
    train.learn          learn it from this anchor       -> Update
    train.review         learn these rows of your history -> Update
    train.skip           let it go, unlearned
    train.follow         do what is ordered besides
    train.consolidate    keep what was learned           -> what the strategies share, and weights they changed
    evaluate.judge       compare this anchor with the champion, on rows of your past -> sums
    query.save           keep your state for a version

It runs unchanged on our `RayGrid`, in Flower's simulation, on a SuperNode and in `incr client`. A node whose
configuration names a client's file (`client`) serves that owner; all others are told whose rows they have.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from federated.home import Guest, Home
from federated.owner import Owner
from federated.records import pack, tell, unpack
from incr_core.errors import JobError
from incr_core.rounds import Orders, Participant
from incr_core.update import Update

__all__ = ["app"]

ANCHOR, SHARED, ROWS, ORDER, WORK = "anchor", "shared", "rows", "order", "work"
"""Records of a message: weights to start from, merged strategy state, rows to review, what to do; and of an answer:
what it took."""

CLIENT = "client"
"""The key of a node's configuration that names its owner's file."""

app = ClientApp()


def home_of(context: Context) -> Home:
    """Where the client of a node is at home."""
    file = context.node_config.get(CLIENT)
    return Guest(context) if file is None else Owner.of(str(file))


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Tell who is here."""
    return Message(RecordDict({ORDER: ConfigRecord(home_of(context).hello())}), reply_to=message)


@app.query("open")
def open_client(message: Message, context: Context) -> Message:
    """Become a client of a job: fresh, as it was at a version, or fresh at a place in the stream."""
    order, home = message.content.config_records[ORDER], home_of(context)

    def describe(participant: Participant) -> RecordDict:
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
                "cursor": home.cursor(participant) if order["describe"] else "",
                "coming": home.coming(participant),
            }
        )

    return _answer(message, home, describe, home.open, changed=False)


@app.evaluate("receive")
def receive(message: Message, context: Context) -> Message:
    """Take the next increment: predict what arrives, score what became known, tell what there is to learn."""
    order, home = message.content.config_records[ORDER], home_of(context)

    def work(participant: Participant) -> RecordDict:
        _adopt(participant, message.content)
        number = order.get("number")
        arrival = participant.receive(None if number is None else int(str(number)))
        return tell(
            {
                "arrival": None if arrival is None else home.arrived(arrival, participant),
                "fragments": home.fragments(order, participant),
                "coming": home.coming(participant),
            }
        )

    return _answer(message, home, work)


@app.train("learn")
def learn(message: Message, context: Context) -> Message:
    """Learn the increment at hand, from the anchor."""
    order, home = message.content.config_records[ORDER], home_of(context)

    def work(participant: Participant) -> RecordDict:
        anchor = unpack(message.content.array_records[ANCHOR], copy=False)
        update = participant.learn(anchor, bool(order["first"]))
        if order["first"]:
            home.learned(participant)
        return _contribution(update)

    return _answer(message, home, work)


@app.train("review")
def review(message: Message, context: Context) -> Message:
    """Learn rows of the history once more, from the anchor."""
    home = home_of(context)

    def work(participant: Participant) -> RecordDict:
        _adopt(participant, message.content)
        rows = unpack(message.content.array_records[ROWS], copy=True)["rows"]
        return _contribution(participant.review(home.rows(rows)))

    return _answer(message, home, work)


@app.train("skip")
def skip(message: Message, context: Context) -> Message:
    """Let the rows of the increment at hand go."""
    home = home_of(context)

    def work(participant: Participant) -> RecordDict:
        if participant.increment is not None and participant.increment.labelled.rows is not None:
            home.skipped(participant.increment.labelled.rows)
        participant.skip()
        return RecordDict()

    return _answer(message, home, work)


@app.train("follow")
def follow(message: Message, context: Context) -> Message:
    """Do what is ordered, with the strategy state that was merged last."""

    def work(participant: Participant) -> RecordDict:
        if SHARED in message.content:
            participant.learner.adopt_shared(unpack(message.content.array_records[SHARED], copy=False))
        participant.follow(Orders(**json.loads(str(message.content.config_records[ORDER]["orders"]))))
        return RecordDict()

    return _answer(message, home_of(context), work)


@app.train("consolidate")
def consolidate(message: Message, context: Context) -> Message:
    """Let the strategies keep what was learned, at the weights that all agreed on."""

    def work(participant: Participant) -> RecordDict:
        anchor = unpack(message.content.array_records[ANCHOR], copy=False)
        content = RecordDict({SHARED: pack(participant.consolidate(anchor))})
        if participant.learner.remakes:
            content["weights"] = pack(participant.learner.weights())
        return content

    return _answer(message, home_of(context), work)


@app.evaluate("judge")
def judge(message: Message, context: Context) -> Message:
    """Compare the anchor with the champion, on rows of the past: sums alone leave the client."""

    def work(participant: Participant) -> RecordDict:
        anchor = unpack(message.content.array_records[ANCHOR], copy=False)
        return tell({"judged": participant.judge(anchor)})

    return _answer(message, home_of(context), work)


@app.query("save")
def save(message: Message, context: Context) -> Message:
    """Keep the state for a version, on this client's own disk."""
    home = home_of(context)

    def work(participant: Participant) -> RecordDict:
        home.save(message.content.config_records[ORDER], participant)
        return RecordDict()

    return _answer(message, home, work, changed=False)


def _answer(
    message: Message,
    home: Home,
    work: Callable[[Participant], RecordDict],
    begin: Callable[[ConfigRecord], Participant] | None = None,
    *,
    changed: bool = True,
) -> Message:
    """Bring the participant up, let it work, settle it, and say what it took and where.

    changed: whether the work changes what the next message depends on.
    """
    begun = time.perf_counter()
    try:
        participant = (begin or home.participant)(message.content.config_records[ORDER])
        content = work(participant)
        told = home.answered(participant, changed=changed)
    except Exception as error:
        return Message(home.failure(error), reply_to=message)
    content[WORK] = ConfigRecord({"seconds": time.perf_counter() - begun, "process": os.getpid(), **told})
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
