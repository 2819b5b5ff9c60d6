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

    Attributes:
        totals: Sums over all increments.
        clients: Sums over the increments of each client.
        slices: Sums over the increments of each slice; None if the job names no slices and the run has had none.
        controller: Detects drift and decides on the actions; None if the job has no detectors.
        review: Schedule of the passes over the history; None if the job has none.
        gate: Judges versions; None if the job has no gate.
        limits: Share of the rows to learn; None if the job limits no increment and the run has had no limit.
        dropped: Up to which increment and time rows are set aside, and the reason; None if none are.
        reached: End of the last increment, in microseconds.
    """

    def __init__(self, job: Job) -> None:
        self.totals, self.clients = Totals(), NamedSums()
        self.slices = SliceTotals() if job.features.slices else None
        self.controller, self.review, self.gate = job.controller(), job.reviews(), _gate(job)
        self._limits = job.limits
        limits_rows = bool(job.limits.model_dump(exclude={"disk"}, exclude_none=True))
        self.limits = Limits(self._limits.seconds) if limits_rows else None
        self.dropped: dict[str, Any] | None = None
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
            "gate": None if self.gate is None else self.gate.state_dict(),
            "dropped": self.dropped,
            "reached": self.reached,
        }
        if self.slices is not None:
            state["slices"] = self.slices.state_dict()
        if self.limits is not None:
            state["limits"] = self.limits.state_dict()
        return copy.deepcopy(state) if copied else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        self.totals = Totals(**state["totals"])
        self.clients.load_state_dict(state.get("clients", {"clients": [], "sums": {}}))
        if "slices" in state:  # also if the job no longer names slices
            self.slices = SliceTotals() if self.slices is None else self.slices
            self.slices.load_state_dict(state["slices"])
        if "limits" in state:  # also if the job no longer has limits: the event that they have ended is still due
            self.limits = Limits(self._limits.seconds) if self.limits is None else self.limits
            self.limits.load_state_dict(state["limits"])
        if self.controller is not None:
            self.controller.load_state_dict(state["controller"])
        if self.review is not None:
            self.review.load_state_dict(state["review"])
        if self.gate is not None and state.get("gate") is not None:  # absent if the job had no gate then
            self.gate.load_state_dict(state["gate"])
        self.dropped, self.reached = state.get("dropped"), state.get("reached", 0)


def _gate(job: Job) -> Gate | None:
    publish = job.publish
    goes_back = publish.on_hold == "rollback"
    return Gate(publish.margin, publish.patience, goes_back=goes_back) if publish.gate else None
