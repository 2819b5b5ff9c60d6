"""The run directory: versions, champion, ledger and the state of participants, with one writer at a time."""

from __future__ import annotations

from incr_core.registry._erased import SCHEMA, add_erased, erased, ids_of
from incr_core.registry._job_claim import begun
from incr_core.registry._participant_states import state_folder
from incr_core.registry._run_directory import RunDirectory

__all__ = ["SCHEMA", "RunDirectory", "add_erased", "begun", "erased", "ids_of", "state_folder"]
