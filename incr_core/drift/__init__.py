"""Drift: statistics are watched by detectors, and what is found is acted on."""

from __future__ import annotations

from incr_core.drift._controller import BLOCK, Alarm, Alarms

__all__ = ["BLOCK", "Alarm", "Alarms"]
