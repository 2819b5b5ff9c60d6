"""Who learns together, and how one round of theirs goes: participants, the outer step, what is told between them."""

from __future__ import annotations

from incr_core.rounds._actions import ACTIONS, Orders
from incr_core.rounds._consolidation_window import Span
from incr_core.rounds._outer import OUTERS, Outer
from incr_core.rounds._participant import Arrival, Participant
from incr_core.rounds._pending import Pending
from incr_core.rounds._probe import PIECE, Watch, merged_pieces
from incr_core.rounds._review import Review

__all__ = [
    "ACTIONS",
    "OUTERS",
    "PIECE",
    "Arrival",
    "Orders",
    "Outer",
    "Participant",
    "Pending",
    "Review",
    "Span",
    "Watch",
    "merged_pieces",
]
