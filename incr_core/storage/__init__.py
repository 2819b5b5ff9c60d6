"""State on disk without pickle, sealed by hashes, written whole or not at all."""

from __future__ import annotations

from incr_core.storage._atomic import numbers_in, remove, storage, write_atomically, write_folder
from incr_core.storage._growing_table import GrowingTable, arrow_bytes, parquet_bytes, read_table
from incr_core.storage._integrity import SCHEMA, model_sha256, read_verified, seal, sha256, unseal
from incr_core.storage._lock import Lock

__all__ = [
    "SCHEMA",
    "GrowingTable",
    "Lock",
    "arrow_bytes",
    "model_sha256",
    "numbers_in",
    "parquet_bytes",
    "read_table",
    "read_verified",
    "remove",
    "seal",
    "sha256",
    "storage",
    "unseal",
    "write_atomically",
    "write_folder",
]
