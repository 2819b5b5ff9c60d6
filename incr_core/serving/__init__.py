"""Predictions over HTTP by the current champion of a run."""

from __future__ import annotations

from incr_core.serving._app import MAX_BYTES, MAX_ROWS, App
from incr_core.serving._asked import Asked, Question, ask
from incr_core.serving._board import Board
from incr_core.serving._champion import Champion
from incr_core.serving._erase import erase_in_journal
from incr_core.serving._feedback import Feedback
from incr_core.serving._guard import Guard
from incr_core.serving._http import BoundedHttp
from incr_core.serving._journal import Journal, JournalledRow, Kept
from incr_core.serving._journals import is_postgres, open_journal
from incr_core.serving._options import Serving, application
from incr_core.serving._request import Column, RequestError, table_of
from incr_core.serving._shadow import Shadow
from incr_core.serving._sqlite_journal import SqliteJournal

__all__ = [
    "MAX_BYTES",
    "MAX_ROWS",
    "App",
    "Asked",
    "Board",
    "BoundedHttp",
    "Champion",
    "Column",
    "Feedback",
    "Guard",
    "Journal",
    "JournalledRow",
    "Kept",
    "Question",
    "RequestError",
    "Serving",
    "Shadow",
    "SqliteJournal",
    "application",
    "ask",
    "erase_in_journal",
    "is_postgres",
    "open_journal",
    "table_of",
]
