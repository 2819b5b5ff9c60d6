"""The Flower ClientApp: records in, a participant's calls, records out.

    query.hello          who are you?                    -> the partition the node was given, or its owner's name
    query.open           be a client of this job         -> what the server must know of the model
    evaluate.receive     take the next increment         -> Arrival, without rows
    evaluate.offer       of a block: take up the rows of these clients -> their ids, and statistics
    train.learn          learn it from this anchor       -> Update
    train.review         learn these rows of your history -> Update
    train.skip           let it go, unlearned
    train.follow         do what is ordered besides
    train.consolidate    keep what was learned           -> what the strategies share, and weights they changed
    evaluate.judge       compare this anchor with the champion, on rows of your past -> sums
    evaluate.compare     compare this anchor with these weights, on rows held back -> sums
    query.save           keep your state for a version

It runs unchanged on our `RayGrid`, in Flower's simulation, on a SuperNode and in `incr client`. A node whose
configuration names a client's file (`client`) serves that owner; all others are told whose rows they have.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from flwr.app import ConfigRecord, Context, Message, RecordDict

from federated._answering import adopt_sent, answer, contribution, host_of, work_done
from federated._batched_app import BatchedApp
from federated._known_tensors import Lacks, answered_with, received
from federated._message_records import ALONE, ANCHOR, CHAMPION, CLIENTS, ORDER, ROWS, SHARED, WORK
from federated._records import pack, tell, unpack
from incr_core import metrics
from incr_core.errors import JobError
from incr_core.rounds import ClientBlock, Orders, Participant, learn_side_by_side
from incr_core.storage import checkpoint

__all__ = ["app"]

app = BatchedApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Tell who is here."""
    return Message(RecordDict({ORDER: ConfigRecord(host_of(context).hello())}), reply_to=message)


@app.query("open")
def open_client(message: Message, context: Context) -> Message:
    """Become a client of a job: fresh, as it was at a version, or fresh at a place in the stream."""
    order, host = message.content.config_records[ORDER], host_of(context)

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
                # Those that a run begins with: what was learned leaves in updates alone, without what is its own.
                "weights": learner.weights() if order["describe"] and participant.cursor is None else {},
                "shared": shared if order["describe"] else {},
                "rules": learner.rules(),
                "shared_rules": shared_rules,
                "consolidates": participant.consolidates,
                "spans": participant.spans,
                "shares": bool(shared),
                "remakes": learner.remakes,
                "cursor": host.cursor(participant) if order["describe"] else "",
                "coming": host.coming(participant),
            }
        )

    return answer(message, host, describe, host.open, changed=False)


@app.evaluate("receive")
def receive(message: Message, context: Context) -> Message:
    """Take the next increment: predict what arrives, score what became known, tell what there is to learn."""
    order, host = message.content.config_records[ORDER], host_of(context)

    def work(participant: Participant) -> RecordDict:
        adopt_sent(participant, message.content)
        number = order.get("number")
        arrival = host.receive(participant, None if number is None else int(str(number)))
        return tell(
            {
                "arrival": None if arrival is None else host.arrived(arrival, participant),
                "fragments": host.fragments(order, participant),
                "coming": host.coming(participant),
                "holds": host.holds(participant),
                "back": host.holds_back(participant),
                **({"offers": participant.offers()} if isinstance(participant, ClientBlock) else {}),
            }
        )

    return answer(message, host, work)


@app.evaluate("offer")
def offer(message: Message, context: Context) -> Message:
    """Of a block of clients: take up the rows of those that are drawn, and tell what they add to statistics."""
    host = host_of(context)

    def work(participant: Participant) -> RecordDict:
        assert isinstance(participant, ClientBlock)
        rows, observed = participant.take_up(unpack(message.content.array_records[CLIENTS], copy=True)["clients"])
        return tell({"rows": rows, "observed": observed})

    return answer(message, host, work)


@app.train("learn")
def learn(message: Message, context: Context) -> Message:
    """Learn the increment at hand, from the anchor."""
    order, host = message.content.config_records[ORDER], host_of(context)

    def work(participant: Participant) -> RecordDict:
        host.check_learns(participant)
        anchor = received(participant, message.content, ANCHOR)
        if isinstance(participant, ClientBlock):
            drawn = unpack(message.content.array_records[CLIENTS], copy=True)["clients"]
            update = participant.learn_drawn(anchor, drawn, bool(order["first"]))
        else:
            update = host.learn(participant, anchor, bool(order["first"]))
        if order["first"]:
            host.learned(participant)
        return contribution(participant, update, anchor, order)

    return answer(message, host, work)


@app.batched("train.learn", lambda message: message.content.config_records[ORDER].get("batch"))
def learn_batch(messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
    """Learn the increments at hand of several clients as one batch (`federated.batch_clients`)."""
    begun, hosts = (time.perf_counter(), time.process_time()), [host_of(context) for context in contexts]
    orders = [message.content.config_records[ORDER] for message in messages]
    try:
        participants = [host.participant(order) for host, order in zip(hosts, orders, strict=True)]
        participants[0].usage.begin()
        for host, participant in zip(hosts, participants, strict=True):
            host.check_learns(participant)
        anchors = [
            received(participant, message.content, ANCHOR)
            for participant, message in zip(participants, messages, strict=True)
        ]
        anchor = anchors[0]  # all are of one version
        updates, why = learn_side_by_side(participants, anchor, [bool(order["first"]) for order in orders])
        contents = []
        for host, order, participant, update in zip(hosts, orders, participants, updates, strict=True):
            if order["first"]:
                host.learned(participant)
            content = contribution(participant, update, anchor, order)
            contents.append((content, host.answered(participant, changed=True)))
    except Lacks as lacks:
        return [
            Message(lacks.answer(host.name), reply_to=message) for host, message in zip(hosts, messages, strict=True)
        ]
    except Exception as error:  # of one of them, which the others cannot go on without
        return [Message(host.failure(error), reply_to=message) for host, message in zip(hosts, messages, strict=True)]
    for content, told in contents:
        content[WORK] = work_done(begun, participants[0], {ALONE: why, **told}, len(messages))
    return [Message(content, reply_to=message) for (content, _), message in zip(contents, messages, strict=True)]


@app.train("review")
def review(message: Message, context: Context) -> Message:
    """Learn rows of the history once more, from the anchor."""
    host = host_of(context)

    def work(participant: Participant) -> RecordDict:
        anchor = adopt_sent(participant, message.content)
        rows = unpack(message.content.array_records[ROWS], copy=True)["rows"]
        update = participant.review(host.rows(rows))
        participant.learner.share_ids(anchor)
        return contribution(participant, update, anchor, message.content.config_records[ORDER])

    return answer(message, host, work)


@app.train("skip")
def skip(message: Message, context: Context) -> Message:
    """Let the rows of the increment at hand go."""
    host = host_of(context)

    def work(participant: Participant) -> RecordDict:
        host.check_learns(participant)
        if participant.increment is not None and participant.increment.labelled.row_ids is not None:
            host.skipped(participant.increment.labelled.row_ids)
        participant.skip()
        return RecordDict()

    return answer(message, host, work)


@app.train("follow")
def follow(message: Message, context: Context) -> Message:
    """Do what is ordered, with the strategy state that was merged last."""
    host = host_of(context)

    def work(participant: Participant) -> RecordDict:
        if SHARED in message.content:
            # The state may have tensors of the anchor, which the learner adopts with the next increment.
            anchor = received(participant, message.content, ANCHOR)
            participant.learner.adopt_shared(received(participant, message.content, SHARED, anchor))
        orders = Orders(**json.loads(str(message.content.config_records[ORDER]["orders"])))
        participant.follow(host.agrees(orders))
        return RecordDict()

    return answer(message, host, work)


@app.train("consolidate")
def consolidate(message: Message, context: Context) -> Message:
    """Let the strategies keep what was learned, at the weights that all agreed on."""
    host = host_of(context)

    def work(participant: Participant) -> RecordDict:
        anchor = received(participant, message.content, ANCHOR)
        if host.consolidates(participant):
            shared = participant.consolidate(anchor)
        else:
            participant.adopt(anchor)
            shared, _ = participant.learner.shared_state()
        content = RecordDict()
        content[SHARED] = pack(answered_with(content, SHARED, shared, anchor))
        if participant.learner.remakes:
            participant.unsent = {}  # of weights as they were before strategies changed them
            weights = participant.told(participant.learner.weights())
            content["weights"] = pack(answered_with(content, "weights", weights, anchor))
        return content

    return answer(message, host, work)


@app.evaluate("judge")
def judge(message: Message, context: Context) -> Message:
    """Compare the anchor with the champion, on rows of the past: sums alone leave the client."""
    host = host_of(context)

    def work(participant: Participant) -> RecordDict:
        anchor = received(participant, message.content, ANCHOR)
        return tell({"judged": host.judged(participant.judge(anchor))})

    return answer(message, host, work)


@app.evaluate("compare")
def compare(message: Message, context: Context) -> Message:
    """Compare the anchor with the champion on the rows held back: sums alone leave the client."""
    host = host_of(context)

    def work(participant: Participant) -> RecordDict:
        anchor = received(participant, message.content, ANCHOR)
        champion = unpack(message.content.array_records[CHAMPION], copy=False)
        found = host.compared(participant.compare(champion, anchor))
        measured = {"champion": metrics.total([found.champion]), "challenger": metrics.total([found.challenger])}
        return tell({"sums": found.sums, **measured})

    return answer(message, host, work)


@app.query("save")
def save(message: Message, context: Context) -> Message:
    """Keep the state for a version, on this client's own disk."""
    host = host_of(context)

    def work(participant: Participant) -> RecordDict:
        host.save(message.content.config_records[ORDER], participant)
        return RecordDict()

    return answer(message, host, work, changed=False)


@app.batched("query.save", lambda message: "all")
def save_batch(messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
    """Keep the states of all clients here, and wait for the disk once."""
    with checkpoint.unsynced() as written:
        replies = [save(message, context) for message, context in zip(messages, contexts, strict=True)]
    checkpoint.settle(list(dict.fromkeys(written)))
    return replies
