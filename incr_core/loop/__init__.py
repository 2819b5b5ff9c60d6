"""The loop: learns increments, commits versions, and returns to the last commit if an increment diverges."""

from __future__ import annotations

from incr_core.loop._alerts import Alerts
from incr_core.loop._change import ACTIONS, carry_out
from incr_core.loop._loop import Loop
from incr_core.loop._totals import Progress

__all__ = ["ACTIONS", "Alerts", "Loop", "Progress", "carry_out"]
