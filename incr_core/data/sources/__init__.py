"""Where rows lie: files of four formats, or tables that a Python function gives."""

from __future__ import annotations

from incr_core.data.sources._formats import format_of, read_table
from incr_core.data.sources._fragment import Fragment
from incr_core.data.sources._python_source import CallableSource
from incr_core.data.sources._source import FileSource, Source, open_source
from incr_core.data.sources._tables import Tables, as_table

__all__ = [
    "CallableSource",
    "FileSource",
    "Fragment",
    "Source",
    "Tables",
    "as_table",
    "format_of",
    "open_source",
    "read_table",
]
