"""The loop: increments in, versions out, and back to the last commit where an increment diverges."""

from __future__ import annotations

from incr_core.loop._loop import Loop
from incr_core.loop._totals import Progress

__all__ = ["Loop", "Progress"]
