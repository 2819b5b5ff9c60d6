"""Absences of simulated clients: clients that are away, lost answers, and pending rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from federated._availability import Availability
from incr_core.data.sources import seconds
from incr_core.data.times import duration
from incr_core.job import Job
from incr_core.rounds import WAITING, Arrival

__all__ = ["Absences"]

IDLE = 100
"""Maximum number of increments of waiting rows in a row in which no client learns. Then the run ends."""


class Absences:
    """The absences in the current increment that `federated.availability` defines for these clients, in their order.

    A client that is away is not asked to learn. It still predicts the rows that arrive. A lost or late answer counts as
    an order that never arrived: the client's rows wait, as those of a client that was not drawn. In the warm start all
    clients are present.

    After the end of the stream, increments of waiting rows follow until their clients have learned them, or can never
    do so.

    Attributes:
        there: Clients with rows to learn that can be asked; none if fewer than `min_clients` of all clients are
            present.
        pending: Client -> its rows that wait, after the increment.
    """

    def __init__(self, job: Job, names: Sequence[str]) -> None:
        wanted = job.federated
        assert wanted.availability is not None
        self._names, self._least = names, wanted.min_clients
        self._held_out = {*wanted.held_out}
        self._passes = job.learner.most_epochs
        self._timed = job.stream.timed
        self._step = duration(str(job.stream.every)) if self._timed else 1
        trace = wanted.availability.trace
        self._availability = Availability(
            wanted.availability,
            names,
            path=None if trace is None else Path(job.root, trace),
            timed=self._timed,
            timeout=seconds(wanted.round_timeout),
            seed=job.learner.seed,
        )
        self.pending: dict[int, int] = {}
        self._offered: dict[int, int] = {}
        self._moment, self._idle = 0, 0
        self._number, self._warm, self._waiting = 0, False, False
        self.there: set[int] = set()

    def begin(self, arrivals: Sequence[Arrival]) -> bool:
        """Begin an increment. Return False if its rows can never be learned: then the run is over."""
        tick = arrivals[0].tick
        self._offered = {client: arrival.labelled for client, arrival in enumerate(arrivals) if arrival.labelled}
        self._number, self._warm, self._waiting = tick.number, tick.warm, tick.name == WAITING
        if not self._waiting:
            self._moment = tick.time if self._timed else tick.number
            self.there = self._found()
            return True
        hopeful = [
            self._names[one]
            for one, rows in self._offered.items()
            if self._names[one] not in self._held_out and self._may_answer(one, rows)
        ]
        moments = [self._availability.back(name, self._moment + self._step) for name in hopeful]
        back = min((moment for moment in moments if moment is not None), default=None)
        if back is None or self._idle >= IDLE:
            return False
        self._moment = back
        self.there = self._found()
        return True

    def _may_answer(self, client: int, rows: int) -> bool:
        return self._availability.may_answer(self._names[client], rows * self._passes)

    def _found(self) -> set[int]:
        if self._warm:
            return {*self._offered}
        found = {client for client in self._offered if self._is_there(client)}
        if found and len(found) < self._least and sum(map(self._is_there, range(len(self._names)))) < self._least:
            return set()
        return found

    def _is_there(self, client: int) -> bool:
        return self._availability.is_there(self._names[client], self._number, self._moment)

    def lost(self, drawn: Sequence[int], round_: int) -> dict[int, str]:
        """Return those of the asked clients whose answers do not arrive in time, with reasons."""
        if self._warm:
            return {}
        rows = {client: self._offered[client] * self._passes for client in drawn}
        whys = {
            client: self._availability.why_lost(self._names[client], self._number, round_, count)
            for client, count in rows.items()
        }
        return {client: why for client, why in whys.items() if why}

    def settle(self, arrivals: Sequence[Arrival]) -> None:
        """Finish an increment. A client whose arrival has rows has learned or discarded them."""
        done = [client for client in self._offered if arrivals[client].labelled]
        self.pending |= self._offered
        for client in done:
            del self.pending[client]
        self._idle = self._idle + 1 if self._waiting and not done else 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state on which the next increment depends."""
        return {"pending": self.pending, "moment": self._moment, "idle": self._idle}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Restore the state; None restores the initial one."""
        state = state or {"pending": {}, "moment": 0, "idle": 0}
        self.pending = {int(client): rows for client, rows in state["pending"].items()}
        self._moment, self._idle = state["moment"], state["idle"]
