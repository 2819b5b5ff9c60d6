"""Runs in Python: start or resume them, read them, roll them back, erase rows from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incr_core._util import exported

if TYPE_CHECKING:
    from incr_core.runs._change import change
    from incr_core.runs._comparison import Compared, Comparison, compare
    from incr_core.runs._detached import detach, go_on
    from incr_core.runs._difference import difference
    from incr_core.runs._engine_choice import EngineSettings
    from incr_core.runs._erase import erase, rows_in_file, rows_in_source, rows_where
    from incr_core.runs._explained import Explained, explain
    from incr_core.runs._from_objects import open_run
    from incr_core.runs._kept_columns import with_columns
    from incr_core.runs._kept_rows import KEPT, delete_rows, memories_of, rows_kept
    from incr_core.runs._recommend import recommended, user_and_item
    from incr_core.runs._rows_seen import prequential_at, rows_seen
    from incr_core.runs._run import Run, run
    from incr_core.runs._status import Status
    from incr_core.runs._stop import stop
    from incr_core.runs._summary import Summary
    from incr_core.runs._tuning import Tuned, tune
    from incr_core.runs._version import Version
    from incr_core.runs._version_record import VersionRecord
else:
    __getattr__, __dir__ = exported(__name__)

__all__ = [
    "KEPT",
    "Compared",
    "Comparison",
    "EngineSettings",
    "Explained",
    "Run",
    "Status",
    "Summary",
    "Tuned",
    "Version",
    "VersionRecord",
    "change",
    "compare",
    "delete_rows",
    "detach",
    "difference",
    "erase",
    "explain",
    "go_on",
    "memories_of",
    "open_run",
    "prequential_at",
    "recommended",
    "rows_in_file",
    "rows_in_source",
    "rows_kept",
    "rows_seen",
    "rows_where",
    "run",
    "stop",
    "tune",
    "user_and_item",
    "with_columns",
]
