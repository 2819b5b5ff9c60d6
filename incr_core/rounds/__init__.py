"""Who learns together, and how one round of theirs goes: participants, the outer step, what is told between them."""

from __future__ import annotations

from incr_core.rounds._consolidation_window import Span
from incr_core.rounds._orders import Orders
from incr_core.rounds._outer import OUTERS, Outer
from incr_core.rounds._participant import Arrival, Participant
from incr_core.rounds._pending import Pending
from incr_core.rounds._probe import PROBE_ROWS, PROBED, Probe, interleaved
from incr_core.rounds._review import Review
from incr_core.rounds._round import Cohort, Consolidated, Round, consolidate, take_round, total_measured
from incr_core.rounds._worker import Alone, Exchange, Worker

__all__ = [
    "OUTERS",
    "PROBED",
    "PROBE_ROWS",
    "Alone",
    "Arrival",
    "Cohort",
    "Consolidated",
    "Exchange",
    "Orders",
    "Outer",
    "Participant",
    "Pending",
    "Probe",
    "Review",
    "Round",
    "Span",
    "Worker",
    "consolidate",
    "interleaved",
    "take_round",
    "total_measured",
]
