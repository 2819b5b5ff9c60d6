"""The loop's own state between increments, a part of every commit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from incr_core.data.timeline import Tick
from incr_core.job import Job
from incr_core.loop._gate import Gate
from incr_core.loop._limits import Limits
from incr_core.loop._named_sums import NamedSums
from incr_core.loop._slice_totals import SliceTotals
from incr_core.loop._totals import Totals

__all__ = ["LoopState"]


class LoopState:
    """The loop's own state, initially as at the start of a job's run.

    totals, clients, slices: sums over all increments, and those of each client and each slice. controller, review,
    gate: what notices drift, looks back and judges versions; None where the job does not ask for it. limits: which
    share of rows is learned. dropped: up to which increment and which time rows are set aside, and why; None where none
    are. aside: spans of time [start, stop) whose outcomes do not count in rates, because their rows are set aside.
    reached: where the last increment ended, in microseconds.
    """

    def __init__(self, job: Job) -> None:
        self.totals, self.clients, self.slices = Totals(), NamedSums(), SliceTotals()
        self.controller, self.review, self.gate = job.controller(), job.reviews(), _gate(job)
        self.limits = Limits(job.limits)
        self.dropped: dict[str, Any] | None = None
        self.aside: list[list[int]] = []
        self.reached = 0

    def why_aside(self, tick: Tick) -> str | None:
        """Return why an increment is set aside after a rollback, or None."""
        return None if self.dropped is None or tick.number > self.dropped["up_to"] else str(self.dropped["why"])

    def state_dict(self, *, copied: bool) -> dict[str, Any]:
        """Return the state; `copied` if it is written while learning continues."""
        state = {
            "totals": {name: getattr(self.totals, name) for name in Totals.__slots__},
            "controller": None if self.controller is None else self.controller.state_dict(),
            "review": None if self.review is None else self.review.state_dict(),
            "clients": self.clients.state_dict(),
            "slices": self.slices.state_dict(),
            "limits": self.limits.state_dict(),
            "gate": None if self.gate is None else self.gate.state_dict(),
            "dropped": self.dropped,
            "aside": self.aside,
            "reached": self.reached,
        }
        return copy.deepcopy(state) if copied else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        self.totals = Totals(**state["totals"])
        self.clients.load_state_dict(state.get("clients", {"clients": [], "sums": {}}))
        for name, kept in (("slices", self.slices), ("limits", self.limits)):
            if name in state:  # an earlier incr kept none
                kept.load_state_dict(state[name])
        if self.controller is not None:
            self.controller.load_state_dict(state["controller"])
        if self.review is not None:
            self.review.load_state_dict(state["review"])
        if self.gate is not None and state.get("gate") is not None:  # absent if the job had no gate then
            self.gate.load_state_dict(state["gate"])
        self.dropped, self.reached = state.get("dropped"), state.get("reached", 0)
        self.aside = state.get("aside", [])


def _gate(job: Job) -> Gate | None:
    publish = job.publish
    goes_back = publish.on_hold == "rollback"
    return Gate(publish.margin, publish.patience, goes_back=goes_back) if job.gated else None
