"""State on disk without pickle, guarded by hashes, written whole or not at all."""

from __future__ import annotations

from incr_core.storage._atomic import numbers_in, remove, storage, write_atomically, write_folder
from incr_core.storage._growing_table import GrowingTable, arrow_bytes, parquet_bytes, read_table
from incr_core.storage._integrity import SCHEMA, checksummed, model_sha256, read_checksummed, read_verified, sha256
from incr_core.storage._lock import Lock

__all__ = [
    "SCHEMA",
    "GrowingTable",
    "Lock",
    "arrow_bytes",
    "checksummed",
    "model_sha256",
    "numbers_in",
    "parquet_bytes",
    "read_checksummed",
    "read_table",
    "read_verified",
    "remove",
    "sha256",
    "storage",
    "write_atomically",
    "write_folder",
]
