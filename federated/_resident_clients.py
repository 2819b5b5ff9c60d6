"""Participants that stay in this process, so that a client's model and data are not built again for every message.

Flower guarantees only that a client's `Context.state` follows it from message to message. The process may change. So
the context counts the client's generation, one for every answered message. A participant in this process with that
generation is used as it is. Otherwise it is loaded from the client's disk, where it was saved after the last message.
If a client always has the same process (`RayGrid`), nothing is saved between commits, and the context states it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from flwr.app import ConfigRecord, Context

from federated._client_privacy import Promise
from federated._privacy_budget import PrivacyBudget
from federated._simulated_client import Client
from incr_core.data.sources import SharedReads
from incr_core.errors import ArgumentError, CheckpointError, JobError
from incr_core.job import Job
from incr_core.numerics import settle_arithmetic
from incr_core.rounds import Participant
from incr_core.storage import storage

__all__ = ["answered", "close_all", "make_resident", "name_of", "promise_of", "resident_of", "state_place"]

CLIENT = "client"
"""Record of a context that identifies the client."""

LIVE = "live"
"""Folder of a client's state between messages, beside the committed versions."""


@dataclass(slots=True)
class ResidentClient:
    """A participant and its generation."""

    participant: Participant
    generation: int


_residents: dict[tuple[int, str, str], ResidentClient] = {}

_promises: dict[tuple[int, str, str], Promise] = {}
"""Promises of the residents that hide their rows."""

_reads: dict[tuple[int, str], SharedReads] = {}
"""Decoded parts of the common stream, by the run and its job."""


_jobs: dict[str, Job] = {}
"""Jobs of the residents, by their JSON, so that a thousand clients do not parse it a thousand times."""


def make_resident(context: Context, job: str, client: str, folder: str, travels: bool) -> Participant:
    """Build the client's participant, and record its identity in the context.

    Args:
        context: The node's context.
        job: The job as JSON.
        client: The client as JSON.
        folder: The client's folder, for its state.
        travels: Whether the next message may arrive in another process.
    """
    record = ConfigRecord({"job": job, "client": client, "folder": folder, "travels": travels, "generation": 0})
    record["name"] = Client.from_document(json.loads(client)).name
    context.state[CLIENT] = record
    if (before := _residents.pop(_key(context), None)) is not None:
        before.participant.close()
    return _make(context)


def resident_of(context: Context) -> Participant:
    """Return the client's participant as its last message left it.

    Raises:
        CheckpointError: It is neither in this process nor, with the right generation, on its disk.
    """
    if CLIENT not in context.state:
        raise CheckpointError(
            f"node {context.node_id}: this client has lost its state since the run began; "
            "run the same command again, which begins at the last commit"
        )
    record = context.state.config_records[CLIENT]
    resident, generation = _residents.get(_key(context)), int(str(record["generation"]))
    if resident is not None and resident.generation == generation:
        return resident.participant
    participant = _make(context) if resident is None else resident.participant
    _promise(context, participant)
    _, found = participant.load(_live(context))
    if found.get("generation") != generation:
        raise CheckpointError(
            f"client {name_of(context)}: expected its state after message {generation}, found that after message "
            f"{found.get('generation')} in {_live(context)}; another run writes there: give each its own directory"
        )
    return participant


def promise_of(context: Context) -> Promise | None:
    """Return the promise of the client; None without one."""
    return _promises.get(_key(context)) if CLIENT in context.state else None


def answered(context: Context, participant: Participant) -> None:
    """Advance the client by one generation, and save it if it may move to another process."""
    record = context.state.config_records[CLIENT]
    generation = int(str(record["generation"])) + 1
    if record["travels"]:
        participant.save(_live(context), whole=True, generation=generation)
    record["generation"] = generation
    _residents[_key(context)] = ResidentClient(participant, generation)


def name_of(context: Context) -> str:
    """Return the client's name for messages, or its node's number before it has one."""
    record = context.state.config_records.get(CLIENT)
    return f"node {context.node_id}" if record is None else str(record["name"])


def state_place(order: ConfigRecord) -> Path:
    """Return the folder of a client's state for the version of an order."""
    return Path(str(order["folder"]), str(order["version"]))


def close_all() -> None:
    """Stop reading ahead for the residents of this process."""
    while _residents:
        _residents.popitem()[1].participant.close()
    _promises.clear()
    _reads.clear()
    _jobs.clear()


def _make(context: Context) -> Participant:
    record = context.state.config_records[CLIENT]
    told = str(record["job"])
    if (job := _jobs.get(told)) is None:
        job = _jobs[told] = Job.model_validate_json(told)
    client = Client.from_document(json.loads(str(record["client"])))
    settle_arithmetic(job.learner.threads, job.learner.device)
    reads = _reads.setdefault((context.run_id, told), SharedReads())
    made = job.participant(client.name, client.index, client.partition, reads=reads, personal=job.federated.personal)
    _promise(context, made)
    return made


def _promise(context: Context, participant: Participant) -> None:
    """Create the promise that the job makes for its clients, with the payments in the client's file.

    The noise is drawn from the job's seed: a simulation is reproducible, and hides nothing from a reader of the job.
    """
    record = context.state.config_records[CLIENT]
    job = _jobs[str(record["job"])]
    wanted = job.federated.client_privacy
    if wanted is None or wanted.epsilon is None:
        return
    folder, name = Path(str(record["folder"])), str(record["name"])
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    budget = PrivacyBudget(folder / "privacy.jsonl", wanted, simulated=True)
    promise = Promise(wanted, budget, f"{job.learner.seed} {name}".encode(), "simulated")
    try:
        promise.check(participant)
    except ArgumentError as error:
        raise JobError(f"federated.client_privacy: {error}") from error
    _promises[_key(context)] = promise


def _key(context: Context) -> tuple[int, str, str]:
    record = context.state.config_records[CLIENT]
    return context.run_id, str(record["folder"]), str(record["name"])


def _live(context: Context) -> Path:
    return Path(str(context.state.config_records[CLIENT]["folder"]), LIVE)
