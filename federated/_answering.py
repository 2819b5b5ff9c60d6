"""Steps that the client's answers to several messages have in common."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from torch import Tensor

from federated._client_host import KEPT, ClientHost, SimulatedHost
from federated._known_tensors import Lacks, answered_with, received
from federated._message_records import ANCHOR, CLIENT, ORDER, SHARED, WORK
from federated._owner import Owner
from federated._records import pack, tell
from federated._wire import Wire
from incr_core.errors import EngineError
from incr_core.rounds import Participant
from incr_core.shown import shown
from incr_core.update import Update

__all__ = ["adopt_sent", "answer", "contribution", "host_of", "work_done"]


def host_of(context: Context) -> ClientHost:
    """The host of the client of a node. EngineError where its file is none: Flower tells the server of it."""
    file = context.node_config.get(CLIENT)
    if file is None:
        return SimulatedHost(context)
    try:
        return Owner.of(str(file))
    except Exception as error:
        print(f"incr client: {shown(str(error))}", file=sys.stderr, flush=True)
        raise EngineError(
            f"a client whose file cannot be served: {type(error).__name__} {KEPT}; ask the owner"
        ) from None


def answer(
    message: Message,
    host: ClientHost,
    work: Callable[[Participant], RecordDict],
    begin: Callable[[ConfigRecord], Participant] | None = None,
    *,
    changed: bool = True,
) -> Message:
    """Bring the participant up, let it work, settle it, and say what it took and where.

    changed: whether the work changes what the next message depends on.
    """
    begun = time.perf_counter(), time.process_time()
    try:
        participant = (begin or host.participant)(message.content.config_records[ORDER])
        participant.usage.begin()
        content = work(participant)
        told = host.answered(participant, changed=changed)
    except Lacks as lacks:  # nothing has changed yet
        return Message(lacks.answer(host.name), reply_to=message)
    except Exception as error:
        return Message(host.failure(error), reply_to=message)
    content[WORK] = work_done(begun, participant, told)
    return Message(content, reply_to=message)


def work_done(
    begun: tuple[float, float], participant: Participant, told: Mapping[str, Any], messages: int = 1
) -> ConfigRecord:
    """The cost of an answer, and the process. begun: wall time and CPU time; messages: answered together."""
    seconds, cpu_seconds = time.perf_counter() - begun[0], time.process_time() - begun[1]
    cost = {"seconds": seconds / messages, "cpu_seconds": cpu_seconds / messages}
    return ConfigRecord({**cost, "memory": participant.usage.spent()[1], "process": os.getpid(), **told})


def contribution(
    participant: Participant, update: Update, anchor: Mapping[str, Tensor], order: ConfigRecord
) -> RecordDict:
    """What a client tells of a round; its weights coded where that is ordered."""
    content = tell({"rows": update.num_rows, "losses": update.losses, "steps": update.steps})
    weights, wire, rules = participant.told(update.weights), Wire.ordered(order), participant.learner.rules()
    coded = [] if wire is None else wire.coded(weights, rules)
    weights = answered_with(content, "weights", weights, anchor, coded)
    if wire is None:
        content["weights"] = pack(weights)
    else:
        # Without rows the server takes no note of the update, so what is unsent stays so.
        unsent = participant.unsent if update.num_rows else {}
        content["weights"] = wire.pack(weights, anchor, rules, unsent)
    return content


def adopt_sent(participant: Participant, content: RecordDict) -> dict[str, Tensor]:
    """Adopt the anchor, which is returned, and the merged strategy state."""
    anchor = received(participant, content, ANCHOR)
    shared = received(participant, content, SHARED, anchor) if SHARED in content else None
    participant.adopt(anchor)
    if shared is not None:
        participant.learner.adopt_shared(shared)
    return anchor
