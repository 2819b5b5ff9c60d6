"""Sources of rows: files of four formats, or tables from a Python function."""

from __future__ import annotations

from incr_core.data.sources._csv import CsvFormat, found_csv_format
from incr_core.data.sources._declared import index_columns, is_opaque
from incr_core.data.sources._earlier_times import EarlierTimes
from incr_core.data.sources._file_source import FileSource
from incr_core.data.sources._fingerprint import file_fingerprint
from incr_core.data.sources._formats import check_columns, format_of, kind_of, read_table
from incr_core.data.sources._fragment import Fragment
from incr_core.data.sources._listing import Listing, await_files
from incr_core.data.sources._mixed_lines import is_mixed
from incr_core.data.sources._open import SOURCES, open_source
from incr_core.data.sources._python_source import PythonSource
from incr_core.data.sources._remote_file import RemoteFile
from incr_core.data.sources._rows_file import read_rows_file
from incr_core.data.sources._sample import Sample, sample_of
from incr_core.data.sources._settling import SETTLE, seconds
from incr_core.data.sources._shared_reads import SharedReads
from incr_core.data.sources._source import Source
from incr_core.data.sources._tables import Tables, as_table

__all__ = [
    "SETTLE",
    "SOURCES",
    "CsvFormat",
    "EarlierTimes",
    "FileSource",
    "Fragment",
    "Listing",
    "PythonSource",
    "RemoteFile",
    "Sample",
    "SharedReads",
    "Source",
    "Tables",
    "as_table",
    "await_files",
    "check_columns",
    "file_fingerprint",
    "format_of",
    "found_csv_format",
    "index_columns",
    "is_mixed",
    "is_opaque",
    "kind_of",
    "open_source",
    "read_rows_file",
    "read_table",
    "sample_of",
    "seconds",
]
