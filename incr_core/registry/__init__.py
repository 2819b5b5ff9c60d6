"""The run directory: versions, champion, ledger and the state of participants, with one writer at a time."""

from __future__ import annotations

from incr_core.registry._erased import SCHEMA, add_erased, begin_erasing, erased, erasing, finish_erasing, ids_of
from incr_core.registry._job_claim import begun, refuse_another
from incr_core.registry._participant_states import state_folder
from incr_core.registry._run_directory import RunDirectory, champion_of

__all__ = [
    "SCHEMA",
    "RunDirectory",
    "add_erased",
    "begin_erasing",
    "begun",
    "champion_of",
    "erased",
    "erasing",
    "finish_erasing",
    "ids_of",
    "refuse_another",
    "state_folder",
]
