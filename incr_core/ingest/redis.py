"""Consumer of one Redis stream: entries become files of a table, and are acknowledged after they are durable.

The id of the last entry is in the file that its rows are in. After a kill between the rename and XACK, Redis delivers
the entries again, and they are acknowledged without being written. Entries that cannot be used go to a quarantine file
with their ids before they are acknowledged.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
import redis

from incr_core.errors import ArgumentError, EngineError
from incr_core.ingest._landing import LandingTable
from incr_core.ingest._payload import rows_of
from incr_core.ingest._room import LOOK, Room
from incr_core.shown import shown
from incr_core.storage import storage, write_atomically

__all__ = ["RedisIngest"]

GROUP, CONSUMER = "incr", "incr"
"""Names of the consumer group, and of its one consumer: the lock of the folder admits one process."""

PASSWORD = "INCR_REDIS_PASSWORD"
"""Environment variable of the password, if the address has none."""

POLL = 500
"""Milliseconds that a read blocks, after which a signal is noticed."""

Entry = tuple[bytes, Mapping[bytes, bytes] | None]


class RedisIngest:
    """Lands the entries of `redis://HOST:PORT/STREAM` in the table of the same name.

    Characters of the stream's name other than letters, digits, "_" and "-" are "-" in the table's name.

    Args:
        address: `redis://[USER:PASSWORD@]HOST[:PORT]/STREAM[?db=N]`, or `rediss://` for TLS.
        folder: Folder of the tables.
        room: Limit of the folder; while it is reached, nothing is read.
        schema: Columns of the table; None takes those of its first rows.
        count: Entries of one file.
        max_bytes: Bytes of one entry.

    Attributes:
        name: Name under which the position is kept.
        landed: Entries that this process has written.
        repeated: Entries that had landed before and were delivered again.
        bad: Entries in quarantine by this process.

    Raises:
        ArgumentError: The address names no stream.
    """

    def __init__(
        self,
        address: str,
        folder: Path,
        *,
        room: Room | None = None,
        schema: pa.Schema | None = None,
        count: int = 1000,
        max_bytes: int = 64 << 20,
    ) -> None:
        server, self._stream = split(address)
        self.name = f"redis:{self._stream}"
        self._shown = urlunsplit((*urlsplit(address)[:1], urlsplit(address).netloc.rpartition("@")[2], "", "", ""))
        self._client = redis.Redis.from_url(
            server, password=os.environ.get(PASSWORD), socket_timeout=10.0, socket_connect_timeout=5.0
        )
        self.table = LandingTable(folder, re.sub(r"[^A-Za-z0-9_-]", "-", self._stream), schema)
        self._room, self._count, self._max_bytes = room or Room(), count, max_bytes
        self.quarantine = self.table.folder / ".quarantine"
        self._bad_position = self._last_bad()
        self._is_away = False
        self.landed = self.repeated = self.bad = 0

    def run(self, stop: threading.Event, begun: Callable[[], None] = lambda: None) -> None:
        """Read until `stop` is set. A server that is away is tried again and again.

        Raises:
            EngineError: The server rejects the password, or the key is no stream.
            StorageError: The folder cannot be written.
        """
        pause, start = 0.1, True
        while not stop.is_set():
            try:
                if start:
                    self._client.ping()
                    begun()
                    begun = lambda: None  # noqa: E731
                    self._begin()
                    start = False
                self._step(stop)
                if self._is_away:
                    print(f"incr: {self._shown}: answers again", file=sys.stderr, flush=True)
                    self._is_away, pause = False, 0.1
            except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
                raise EngineError(f"{self._shown}: expected access, got: {error}; correct user and password") from error
            except redis.ResponseError as error:
                if str(error).startswith("NOGROUP"):  # the stream was deleted, or the server has lost it
                    start = True
                elif not str(error).startswith(("LOADING", "BUSY ", "READONLY", "MASTERDOWN", "TRYAGAIN")):
                    raise EngineError(
                        f"{self._shown}: expected a stream under the key {self._stream}, got: {error}; name another key"
                    ) from error
                stop.wait(pause)
            except (redis.RedisError, OSError) as error:
                if not self._is_away:
                    print(f"incr: {self._shown}: does not answer: {error}; trying again", file=sys.stderr, flush=True)
                self._is_away = start = True
                stop.wait(pause)
                pause = min(2 * pause, 5.0)

    def _begin(self) -> None:
        """Create the group behind the last landed entry, and take again what was delivered and not acknowledged."""
        try:
            self._client.xgroup_create(self._stream, GROUP, id=self.table.positions.get(self.name, "0"), mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        after = "0"
        while entries := self._read(after, None):
            self._take(entries)
            after = entries[-1][0].decode()

    def _step(self, stop: threading.Event) -> None:
        if not self._room.free(self.table):
            stop.wait(LOOK)
            return
        if entries := self._read(">", POLL):
            self._take(entries)

    def _read(self, after: str, block: int | None) -> list[Entry]:
        found: Any = self._client.xreadgroup(GROUP, CONSUMER, {self._stream: after}, count=self._count, block=block)
        if isinstance(found, dict):  # RESP3
            return [entry for batches in found.values() for batch in batches for entry in batch]
        return [entry for _, entries in found for entry in entries]

    def _take(self, entries: Sequence[Entry]) -> None:
        """Land entries, set bad ones aside, and acknowledge all."""
        position = order(self.table.positions.get(self.name, "0-0"))
        batches, bad = list[pa.RecordBatch](), list[tuple[bytes, str]]()
        schema, last = self.table.schema, None
        for id, fields in entries:
            if order(id.decode()) <= position:
                self.repeated += 1
                continue
            try:
                if fields is None:
                    raise ArgumentError("entry: expected fields, got none: it was deleted before it was read")
                batch = rows_of(fields, schema, self._max_bytes)
                self.table.check(batch.schema)
            except ArgumentError as error:
                bad.append((id, str(error)))
                continue
            schema, last = batch.schema if schema is None else schema, id.decode()
            batches.append(batch)
        self._set_aside(bad, dict(entries))
        if last is not None:
            self.table.land(batches, {self.name: last})
            self.landed += len(batches)
        self._client.xack(self._stream, GROUP, *(id for id, _ in entries))

    # -- quarantine

    def _set_aside(
        self, bad: Sequence[tuple[bytes, str]], entries: Mapping[bytes, Mapping[bytes, bytes] | None]
    ) -> None:
        """Write bad entries that are not in a quarantine file yet as the next one."""
        fresh = [(id, reason) for id, reason in bad if order(id.decode()) > self._bad_position]
        if not fresh:
            return
        lines = [_line(id, reason, entries[id]) for id, reason in fresh]
        with storage(self.quarantine):
            self.quarantine.mkdir(exist_ok=True)
        number = max(self._bad_files(), default=0) + 1
        write_atomically(self.quarantine / f"{number:012d}.jsonl", "".join(lines).encode())
        self._bad_position = order(fresh[-1][0].decode())
        self.bad += len(fresh)
        reason = shown(fresh[0][1], 200)
        print(f"incr: {self._stream}: {len(fresh):,} entries in quarantine: {reason}", file=sys.stderr, flush=True)

    def _bad_files(self) -> list[int]:
        return [int(path.stem) for path in self.quarantine.glob("*.jsonl") if path.stem.isdigit()]

    def _last_bad(self) -> tuple[int, int]:
        newest = max(self._bad_files(), default=0)
        if not newest:
            return 0, 0
        lines = (self.quarantine / f"{newest:012d}.jsonl").read_text().splitlines()
        return order(json.loads(lines[-1])["id"])


def _line(id: bytes, reason: str, fields: Mapping[bytes, bytes] | None) -> str:
    kept = {
        name.decode(errors="replace"): value.decode(errors="backslashreplace") for name, value in (fields or {}).items()
    }
    return json.dumps({"id": id.decode(), "reason": reason, "fields": kept}) + "\n"


def order(id: str) -> tuple[int, int]:
    """Return the id of an entry as numbers that compare as Redis compares ids.

    Example:
        >>> order("1764324000000-12") > order("1764324000000-9")
        True
    """
    time, _, sequence = id.partition("-")
    return int(time), int(sequence or 0)


def split(address: str) -> tuple[str, str]:
    """Return the address of the server and the name of the stream.

    Example:
        >>> split("redis://broker.example:6380/people?db=2")
        ('redis://broker.example:6380/2', 'people')
    """
    parts = urlsplit(address)
    name = parts.path.strip("/")
    options = dict(one.partition("=")[::2] for one in parts.query.split("&") if one)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or not name or not options.keys() <= {"db"}:
        raise ArgumentError('from: expected "redis://HOST:PORT/STREAM" or "...?db=N", got another address')
    database = options.get("db", "0")
    if not database.isdigit():
        raise ArgumentError(f"from: expected the number of a database, got db={database}")
    return urlunsplit((parts.scheme, parts.netloc, f"/{database}", "", "")), name
