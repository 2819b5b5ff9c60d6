"""Where rows lie: files of four formats, or tables that a Python function gives."""

from __future__ import annotations

from incr_core.data.sources._declared import index_columns, is_opaque
from incr_core.data.sources._fingerprint import mark_of, size_in
from incr_core.data.sources._formats import format_of, read_table
from incr_core.data.sources._fragment import Fragment
from incr_core.data.sources._listing import Listing, await_files
from incr_core.data.sources._python_source import CallableSource
from incr_core.data.sources._settling import SETTLE, is_growable, seconds, wait_for
from incr_core.data.sources._source import SOURCES, FileSource, Source, open_source
from incr_core.data.sources._tables import Tables, as_table

__all__ = [
    "SETTLE",
    "SOURCES",
    "CallableSource",
    "FileSource",
    "Fragment",
    "Listing",
    "Source",
    "Tables",
    "as_table",
    "await_files",
    "format_of",
    "index_columns",
    "is_growable",
    "is_opaque",
    "mark_of",
    "open_source",
    "read_table",
    "seconds",
    "size_in",
    "wait_for",
]
