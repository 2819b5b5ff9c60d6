"""Drift: detectors on statistics that participants report, and the reactions to a drift."""

from __future__ import annotations

from incr_core.drift._controller import ACTIONS, Alarm, Controller
from incr_core.drift._detector import BLOCK, Detector

__all__ = ["ACTIONS", "BLOCK", "Alarm", "Controller", "Detector"]
