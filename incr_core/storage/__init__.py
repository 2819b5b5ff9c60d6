"""Storage of state without pickle, protected by hashes and written atomically."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incr_core._util import exported

if TYPE_CHECKING:
    from incr_core.storage._addresses import address_in, file_system, is_address, store_errors
    from incr_core.storage._archive import archive_bytes, read_archive
    from incr_core.storage._atomic import numbers_in, remove, storage, sync_all, write_atomically, write_folder
    from incr_core.storage._integrity import (
        SCHEMA,
        checksummed,
        parse_checksummed,
        read_checksummed,
        read_verified,
        sha256,
    )
    from incr_core.storage._lock import Lock
    from incr_core.storage._model_hash import model_sha256
    from incr_core.storage._object_store import ObjectStore
    from incr_core.storage._tables import arrow_bytes, parquet_bytes, read_table
    from incr_core.storage._working_copy import bring, copy_of, expose, exposed, located, lock_of, told, withdraw
    from incr_core.storage._writer import Writer
else:
    __getattr__, __dir__ = exported(__name__)

__all__ = [
    "SCHEMA",
    "Lock",
    "ObjectStore",
    "Writer",
    "address_in",
    "archive_bytes",
    "arrow_bytes",
    "bring",
    "checksummed",
    "copy_of",
    "expose",
    "exposed",
    "file_system",
    "is_address",
    "located",
    "lock_of",
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
    "told",
    "withdraw",
    "write_atomically",
    "write_folder",
]
