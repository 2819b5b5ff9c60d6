"""Runs in Python: start or resume them, read them, roll them back, erase rows from them."""

from __future__ import annotations

from incr_core.runs._change import change
from incr_core.runs._detached import detach, go_on
from incr_core.runs._difference import difference
from incr_core.runs._engine_choice import EngineSettings
from incr_core.runs._erase import erase, rows_in_file, rows_where
from incr_core.runs._from_objects import open_run
from incr_core.runs._run import Run, VersionRecord, run
from incr_core.runs._status import Status
from incr_core.runs._stop import stop
from incr_core.runs._summary import Summary
from incr_core.runs._version import Version

__all__ = [
    "EngineSettings",
    "Run",
    "Status",
    "Summary",
    "Version",
    "VersionRecord",
    "change",
    "detach",
    "difference",
    "erase",
    "go_on",
    "open_run",
    "rows_in_file",
    "rows_where",
    "run",
    "stop",
]
