"""The command line: one module for each command of `incr`."""

from __future__ import annotations

__all__ = ["STOPPED"]

STOPPED = 130
"""Exit code of a run that was asked to stop. Shells read it as "ended by Ctrl-C"."""
