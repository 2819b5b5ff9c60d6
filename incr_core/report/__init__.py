"""The run as one page, `report.html`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incr_core._util import exported

if TYPE_CHECKING:
    from incr_core.report._caution import caution
    from incr_core.report._comparison import write_comparison
    from incr_core.report._course import read_summary
    from incr_core.report._page import write_report
    from incr_core.report._slice_standings import SliceStanding, slice_standings
    from incr_core.report._standings import Standing, standings
    from incr_core.report._tasks import TaskMatrix
else:
    __getattr__, __dir__ = exported(__name__)

__all__ = [
    "SliceStanding",
    "Standing",
    "TaskMatrix",
    "caution",
    "read_summary",
    "slice_standings",
    "standings",
    "write_comparison",
    "write_report",
]
