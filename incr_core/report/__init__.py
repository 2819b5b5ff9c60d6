"""The run as one page, `report.html`."""

from __future__ import annotations

from incr_core.report.page import write_report

__all__ = ["write_report"]
