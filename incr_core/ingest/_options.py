"""Options of `incr ingest`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from incr_core._util import read_token
from incr_core.errors import ArgumentError, RunDirectoryError, StorageError
from incr_core.ingest._room import Room
from incr_core.ingest._schema import schema_in
from incr_core.storage import Lock, is_address, storage

__all__ = ["Ingest"]


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """Options of `incr ingest`, by the names of the command line.

    Attributes:
        source: Address of a Redis stream; None takes rows over Arrow Flight.
        schema: File with the columns that each table must have.
        max_bytes: Bytes of one batch, or of one entry.
        max_pending: Bytes that are received and not durable.
        max_unlearned: Bytes of a table that are not learned; None sets no limit.
        run: Run directory that decides which files are learned.
        linger: Seconds that a file waits for more batches.
    """

    host: str = "127.0.0.1"
    port: int = 8815
    source: str | None = None
    schema: str | None = None
    token_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    max_bytes: int = 64 << 20
    max_pending: int = 256 << 20
    max_unlearned: int | None = None
    run: str | None = None
    linger: float = 0.05

    def check(self) -> None:
        """Raise an ArgumentError for a limit below its minimum, or options that exclude each other."""
        for name in ("max_bytes", "max_pending", "max_unlearned"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(f"--{name.replace('_', '-')}: expected at least 1, got {value}")
        if not 0 <= self.linger <= 3600:
            raise ArgumentError(f"--linger: expected 0 to 3600 seconds, got {self.linger:g}")
        if not 0 <= self.port < 65536:
            raise ArgumentError(f"--port: expected 0 to 65535, got {self.port}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ArgumentError("--tls-cert, --tls-key: expected both files or neither, got one; name the other too")
        if self.run is not None and self.max_unlearned is None:
            raise ArgumentError("--run: expected --max-unlearned too, which it is for; name a limit in bytes")

    def token(self) -> str | None:
        """Return the token that calls must present; None if there is none."""
        return read_token(self.token_file)

    def tls(self) -> tuple[bytes, bytes] | None:
        """Return certificate and key; None without TLS."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        try:
            return Path(self.tls_cert).read_bytes(), Path(self.tls_key).read_bytes()
        except OSError as error:
            raise ArgumentError(
                f"--tls-cert, --tls-key: expected files that can be read, got: {error}; name others"
            ) from None

    def columns(self) -> pa.Schema | None:
        """Return the columns that each table must have; None if the first rows decide."""
        return None if self.schema is None else schema_in(self.schema)

    def room(self) -> Room:
        """Return the limit of the folder."""
        return Room(self.max_unlearned, self.run)

    @staticmethod
    def claim(folder: str) -> Lock:
        """Create the folder, and take its lock: one process writes into it.

        Raises:
            ArgumentError: The folder is in an object store.
            StorageError: Another process holds the lock.
        """
        if is_address(folder):
            raise ArgumentError(f"folder: expected a folder on this machine, got {folder}; name one")
        lock = Lock(Path(folder) / ".ingest.lock")
        with storage(lock.path.parent):
            lock.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.take()
        except RunDirectoryError:
            raise StorageError(f"{folder}: is written by another `incr ingest`; end it, or name another") from None
        return lock
