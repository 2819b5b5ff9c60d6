"""What a person types: one module for each command of `incr`."""

from __future__ import annotations

__all__ = ["STOPPED"]

STOPPED = 130
"""The exit code of a run that was asked to stop: what shells take for "ended by Ctrl-C"."""
