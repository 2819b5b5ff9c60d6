"""State on disk without pickle, guarded by hashes, written whole or not at all."""

from __future__ import annotations

from incr_core.storage._addresses import address_in, file_system, is_address, store_errors
from incr_core.storage._archive import archive_bytes, read_archive
from incr_core.storage._atomic import numbers_in, remove, storage, sync_all, write_atomically, write_folder
from incr_core.storage._integrity import (
    SCHEMA,
    checksummed,
    model_sha256,
    parse_checksummed,
    read_checksummed,
    read_verified,
    sha256,
)
from incr_core.storage._lock import Lock
from incr_core.storage._tables import arrow_bytes, parquet_bytes, read_table

__all__ = [
    "SCHEMA",
    "Lock",
    "address_in",
    "archive_bytes",
    "arrow_bytes",
    "checksummed",
    "file_system",
    "is_address",
    "model_sha256",
    "numbers_in",
    "parquet_bytes",
    "parse_checksummed",
    "read_archive",
    "read_checksummed",
    "read_table",
    "read_verified",
    "remove",
    "sha256",
    "storage",
    "store_errors",
    "sync_all",
    "write_atomically",
    "write_folder",
]
