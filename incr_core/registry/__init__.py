"""The run directory: versions, champion, ledger and the state of participants, with one writer at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incr_core._util import exported

if TYPE_CHECKING:
    from incr_core.registry._champion import champion_of
    from incr_core.registry._committed import Committed
    from incr_core.registry._detached import Detached, read_progress, withdraw_detached, write_progress
    from incr_core.registry._erased import SCHEMA, add_erased, begin_erasing, erased, erasing, finish_erasing, ids_of
    from incr_core.registry._job_claim import begun, engine_of, is_run, refuse_another, require_run
    from incr_core.registry._participant_states import STAY, state_folder, states_of
    from incr_core.registry._requests import CHANGE, STOP, answer, answered, ask, asked, request
    from incr_core.registry._row_states import RowStates
    from incr_core.registry._run_directory import RunDirectory
    from incr_core.registry._run_totals import WORK, RunTotals
    from incr_core.registry._segments import TABLES, Segment, Segments, read_index
    from incr_core.registry._version_copy import copy_version
    from incr_core.registry._versions import loop_state
    from incr_core.registry._violation import Violation
else:
    __getattr__, __dir__ = exported(__name__)

__all__ = [
    "CHANGE",
    "SCHEMA",
    "STAY",
    "STOP",
    "TABLES",
    "WORK",
    "Committed",
    "Detached",
    "RowStates",
    "RunDirectory",
    "RunTotals",
    "Segment",
    "Segments",
    "Violation",
    "add_erased",
    "answer",
    "answered",
    "ask",
    "asked",
    "begin_erasing",
    "begun",
    "champion_of",
    "copy_version",
    "engine_of",
    "erased",
    "erasing",
    "finish_erasing",
    "ids_of",
    "is_run",
    "loop_state",
    "read_index",
    "read_progress",
    "refuse_another",
    "request",
    "require_run",
    "state_folder",
    "states_of",
    "withdraw_detached",
    "write_progress",
]
