"""The host of a client: on a table that many share, in simulation, or with its owner. Both run the same app.

A host has the client's participant, keeps its state from message to message, and decides what the server hears of rows.
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
"""In place of what rows hold."""


class ClientHost(ABC):
    """The host of one client, for the time of one message."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The client's name."""

    @abstractmethod
    def hello(self) -> dict[str, Any]:
        """Who the client is."""

    @abstractmethod
    def open(self, order: ConfigRecord) -> Participant:
        """Become the client that is ordered: fresh, or as it was."""

    @abstractmethod
    def participant(self, order: ConfigRecord) -> Participant:
        """The client's participant, as its last message has left it."""

    @abstractmethod
    def arrived(self, arrival: Arrival, participant: Participant) -> dict[str, Any]:
        """What the server hears of an increment."""

    @abstractmethod
    def save(self, order: ConfigRecord, participant: Participant) -> None:
        """Keep the state for a version."""

    @abstractmethod
    def answered(self, participant: Participant, *, changed: bool) -> dict[str, Any]:
        """A message is answered; returns what the server is told of it besides. changed: whether the client has."""

    @property
    def promise(self) -> Promise | None:
        """What hides what is worked out of rows here, where something does."""
        return None

    def receive(self, participant: Participant, number: int | None) -> Arrival | None:
        """The next increment; None where there is none, or none that may be learned."""
        return participant.receive(number)

    def learn(self, participant: Participant, anchor: Mapping[str, Tensor], first: bool) -> Update:
        """A round over the increment at hand."""
        return participant.learn(anchor, first)

    def learned(self, participant: Participant) -> None:  # noqa: B027
        """The rows of the increment at hand are in the model."""

    def skipped(self, rows: Tensor) -> None:  # noqa: B027
        """Rows of the increment at hand were let go, unlearned."""

    def holds(self, participant: Participant) -> bool:
        """Whether there is what it has not told, and will not before there is more."""
        return False

    def holds_back(self, participant: Participant) -> bool:
        """Whether rows are left that wait for the next increment, as they are held back of this one."""
        at_hand = participant.increment
        return at_hand is not None and at_hand.held is not None

    def check_learns(self, participant: Participant) -> None:  # noqa: B027
        """An error where the rows at hand may not be learned, or let go."""

    def consolidates(self, participant: Participant) -> bool:
        """Whether strategies may consolidate now."""
        return True

    def judged(self, sums: Tensor) -> Tensor:
        """Of a comparison with the champion, sums (5,) over rows of the past, what may be told."""
        hidden = self.promise is not None and not self.promise.wanted.metrics
        return torch.zeros_like(sums) if hidden else sums

    def compared(self, comparison: Comparison) -> Comparison:
        """Of a comparison with the champion on rows held back, what may be told."""
        hidden = self.promise is not None and not self.promise.wanted.metrics
        return Comparison() if hidden else comparison

    def rows(self, told: Tensor) -> Tensor:
        """The ids of rows of the history that the server asks for; none where what is learned of rows has its price."""
        return told if self.promise is None else told[:0]

    def cursor(self, participant: Participant) -> str:
        """The client's place in its stream, where all have one place: as JSON."""
        return ""

    def fragments(self, order: ConfigRecord, participant: Participant) -> list[str]:
        """The fragments of its stream that the server has not heard of, where all have one stream."""
        return []

    def agrees(self, orders: Orders) -> Orders:
        """Orders that a client here follows."""
        return orders

    def coming(self, participant: Participant) -> dict[str, Any] | None:
        """When the client's next increment ends, where it has a clock of its own; None where all have one."""
        return None

    def failure(self, error: Exception) -> RecordDict:
        """What the server hears of a failure."""
        return failure(self.name, error)


class SimulatedHost(ClientHost):
    """The host of a simulated client, whose stream is its part of a table that all see. The server tells it all."""

    def __init__(self, context: Context) -> None:
        self._context = context

    @property
    def name(self) -> str:
        """The client's name; its node's number before it has one."""
        return residents.name_of(self._context)

    @property
    def promise(self) -> Promise | None:
        """As the job says (`federated.client_privacy`)."""
        return residents.promise_of(self._context)

    def hello(self) -> dict[str, Any]:
        """Which partition this node was given: it decides which client it is."""
        return {"partition-id": int(str(self._context.node_config.get("partition-id", -1)))}

    def open(self, order: ConfigRecord) -> Participant:
        """The participant, made anew, as it was at a version, or at a place in the stream."""
        job, client, folder = (str(order[key]) for key in ("job", "client", "folder"))
        participant = residents.make_resident(self._context, job, client, folder, bool(order["travels"]))
        beside: Mapping[str, Any] = {}
        if "version" in order:
            beside, _ = participant.load(residents.state_place(order))
        elif "cursor" in order:
            # New in a run that goes on: nothing to take back, but the stream begins where the others are in it.
            participant.begin_at(json.loads(str(order["cursor"])))
        if self.promise is not None:
            self.promise.budget.go_back(beside.get("budget", ()))
        return participant

    def participant(self, order: ConfigRecord) -> Participant:
        """The resident."""
        return residents.resident_of(self._context)

    def receive(self, participant: Participant, number: int | None) -> Arrival | None:
        """All clients stay at one place of the stream: one whose budget is spent goes on, and offers no rows."""
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
        """Hidden, where that is promised."""
        promise = self.promise
        if promise is None:
            return participant.learn(anchor, first)
        update = promise.learn(participant, anchor, first, 0)
        promise.spent = not promise.affords(participant)
        return update

    def arrived(self, arrival: Arrival, participant: Participant) -> dict[str, Any]:
        """The arrival as nested state; refused rows are told with place and reason, without their values."""
        document: dict[str, Any] = {entry.name: getattr(arrival, entry.name) for entry in fields(arrival)}
        told = {
            **document,
            "statistics": thinned(arrival.statistics),
            "sliced": {name: [rows, thinned(sums)] for name, (rows, sums) in arrival.sliced.items()},
            "tick": asdict(arrival.tick),
            "bad": [asdict(bad) | {"value": KEPT} for bad in arrival.bad],
            # What a fault quotes of the data stands in brackets.
            "bad_files": [asdict(bad) | {"reason": re.sub(r"\(.*\)", KEPT, bad.reason)} for bad in arrival.bad_files],
        }
        return told if self.promise is None else self.promise.hidden(told)

    def cursor(self, participant: Participant) -> str:
        """Where new clients are to begin."""
        return json.dumps(participant.cursor)

    def fragments(self, order: ConfigRecord, participant: Participant) -> list[str]:
        """Those behind the ones that are known."""
        return list(participant.stream.fragments[int(str(order["fragments"])) :])

    def save(self, order: ConfigRecord, participant: Participant) -> None:
        """In the folder that is ordered."""
        promise = self.promise
        beside = None if promise is None else {"budget": promise.budget.lines}
        participant.save(residents.state_place(order), beside)

    def answered(self, participant: Participant, *, changed: bool) -> dict[str, Any]:
        """One generation on."""
        residents.answered(self._context, participant)
        return {} if self.promise is None else self.promise.told()
