"""The host of a client: on a common table in simulation, or with its owner. Both run the same app.

A host has the client's participant, keeps its state from message to message, and decides what the server learns about
rows.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, RecordDict
from torch import Tensor

from federated import _resident_clients as residents
from federated._client_failures import failure
from federated._client_privacy import Promise
from federated._records import thinned
from incr_core.rounds import Arrival, Comparison, Orders, Participant
from incr_core.update import Update

__all__ = ["KEPT", "ClientHost", "SimulatedHost"]

KEPT = "(kept by its owner)"
"""Replaces values of rows."""


class ClientHost(ABC):
    """The host of one client, for the duration of one message."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The client's name."""

    @abstractmethod
    def hello(self) -> dict[str, Any]:
        """Return the identity of the client."""

    @abstractmethod
    def open(self, order: ConfigRecord) -> Participant:
        """Become the client of the order: new, or with the state of a version."""

    @abstractmethod
    def participant(self, order: ConfigRecord) -> Participant:
        """Return the client's participant in the state after its last message."""

    @abstractmethod
    def arrived(self, arrival: Arrival, participant: Participant) -> dict[str, Any]:
        """Return the data about an increment that the server receives."""

    @abstractmethod
    def save(self, order: ConfigRecord, participant: Participant) -> None:
        """Save the state for a version."""

    @abstractmethod
    def answered(self, participant: Participant, *, changed: bool) -> dict[str, Any]:
        """Finish a message, and return further data for the server. changed: whether the client's state has changed."""

    @property
    def promise(self) -> Promise | None:
        """The promise that hides results computed from rows; None without one."""
        return None

    def receive(self, participant: Participant, number: int | None) -> Arrival | None:
        """Return the next increment; None if there is none, or none that may be learned."""
        return participant.receive(number)

    def learn(self, participant: Participant, anchor: Mapping[str, Tensor], first: bool) -> Update:
        """Learn a round of the current increment."""
        return participant.learn(anchor, first)

    def learned(self, participant: Participant) -> None:  # noqa: B027
        """The rows of the current increment are in the model."""

    def skipped(self, rows: Tensor) -> None:  # noqa: B027
        """Rows of the current increment were discarded without being learned."""

    def holds(self, participant: Participant) -> bool:
        """Return whether the client has unreported data that it reports only when there is more."""
        return False

    def holds_back(self, participant: Participant) -> bool:
        """Return whether rows of this increment are held back for the next one."""
        at_hand = participant.increment
        return at_hand is not None and at_hand.held is not None

    def check_learns(self, participant: Participant) -> None:  # noqa: B027
        """Raise an error if the current rows may not be learned or discarded."""

    def consolidates(self, participant: Participant) -> bool:
        """Return whether strategies may consolidate now."""
        return True

    def judged(self, sums: Tensor) -> Tensor:
        """Return the sums (5,) of a comparison with the champion on past rows that the server may receive."""
        hidden = self.promise is not None and not self.promise.wanted.metrics
        return torch.zeros_like(sums) if hidden else sums

    def compared(self, comparison: Comparison) -> Comparison:
        """Return the comparison with the champion on held-back rows that the server may receive."""
        hidden = self.promise is not None and not self.promise.wanted.metrics
        return Comparison() if hidden else comparison

    def rows(self, told: Tensor) -> Tensor:
        """Return the ids of the history rows that may be learned; none under a promise, which counts each use."""
        return told if self.promise is None else told[:0]

    def cursor(self, participant: Participant) -> str:
        """Return the client's place in the stream as JSON, if all clients share one place."""
        return ""

    def fragments(self, order: ConfigRecord, participant: Participant) -> list[str]:
        """Return the fragments of the stream that the server does not know yet, if all clients share one stream."""
        return []

    def agrees(self, orders: Orders) -> Orders:
        """Return the orders that a client here follows."""
        return orders

    def coming(self, participant: Participant) -> dict[str, Any] | None:
        """Return the end of the client's next increment, if it has a separate clock; None if all share one."""
        return None

    def failure(self, error: Exception) -> RecordDict:
        """Return the report of a failure to the server."""
        return failure(self.name, error)


class SimulatedHost(ClientHost):
    """The host of a simulated client, whose stream is its part of a common table. Its data is chosen by the server."""

    def __init__(self, context: Context) -> None:
        self._context = context

    @property
    def name(self) -> str:
        """The client's name, or its node's number before it has one."""
        return residents.name_of(self._context)

    @property
    def promise(self) -> Promise | None:
        """The promise of the job (`federated.client_privacy`)."""
        return residents.promise_of(self._context)

    def hello(self) -> dict[str, Any]:
        """Return the partition number of this node, which decides its client."""
        return {"partition-id": int(str(self._context.node_config.get("partition-id", -1)))}

    def open(self, order: ConfigRecord) -> Participant:
        """Return a new participant with the state of a version, or at a place in the stream."""
        job, client, folder = (str(order[key]) for key in ("job", "client", "folder"))
        participant = residents.make_resident(self._context, job, client, folder, bool(order["travels"]))
        beside: Mapping[str, Any] = {}
        if "version" in order:
            beside, _ = participant.load(residents.state_place(order))
        elif "cursor" in order:
            # A new client in a resumed run has no state to restore. Its stream begins at the place of the others.
            participant.begin_at(json.loads(str(order["cursor"])))
        if self.promise is not None:
            self.promise.budget.go_back(beside.get("budget", ()))
        return participant

    def participant(self, order: ConfigRecord) -> Participant:
        """Return the resident participant."""
        return residents.resident_of(self._context)

    def receive(self, participant: Participant, number: int | None) -> Arrival | None:
        """Return the next increment. A client whose budget is spent advances with the others and offers no rows."""
        promise = self.promise
        if promise is None:
            return participant.receive(number)
        promise.spent = not promise.affords(participant)
        if promise.spent and participant.coming is None:
            return None
        arrival = participant.receive(number)
        if arrival is not None and promise.spent:
            arrival.rows, arrival.observed = arrival.rows[:0], {}
        return arrival

    def learn(self, participant: Participant, anchor: Mapping[str, Tensor], first: bool) -> Update:
        """Learn a round, hidden by noise under a promise."""
        promise = self.promise
        if promise is None:
            return participant.learn(anchor, first)
        update = promise.learn(participant, anchor, first, 0)
        promise.spent = not promise.affords(participant)
        return update

    def arrived(self, arrival: Arrival, participant: Participant) -> dict[str, Any]:
        """Return the arrival as nested state. Refused rows have their place and reason, without values."""
        document: dict[str, Any] = {entry.name: getattr(arrival, entry.name) for entry in fields(arrival)}
        told = {
            **document,
            "statistics": thinned(arrival.statistics),
            "sliced": {name: [rows, thinned(sums)] for name, (rows, sums) in arrival.sliced.items()},
            "tick": asdict(arrival.tick),
            "bad": [asdict(bad) | {"value": KEPT} for bad in arrival.bad],
            # The reason of a fault quotes data in brackets.
            "bad_files": [asdict(bad) | {"reason": re.sub(r"\(.*\)", KEPT, bad.reason)} for bad in arrival.bad_files],
        }
        return told if self.promise is None else self.promise.hidden(told)

    def cursor(self, participant: Participant) -> str:
        """Return the place at which new clients begin."""
        return json.dumps(participant.cursor)

    def fragments(self, order: ConfigRecord, participant: Participant) -> list[str]:
        """Return the fragments after the known ones."""
        return list(participant.stream.fragments[int(str(order["fragments"])) :])

    def save(self, order: ConfigRecord, participant: Participant) -> None:
        """Save the state in the folder of the order."""
        promise = self.promise
        beside = None if promise is None else {"budget": promise.budget.lines}
        participant.save(residents.state_place(order), beside)

    def answered(self, participant: Participant, *, changed: bool) -> dict[str, Any]:
        """Advance the generation by one."""
        residents.answered(self._context, participant)
        return {} if self.promise is None else self.promise.told()
