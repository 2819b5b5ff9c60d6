"""Group commit: batches of all writers wait in one bounded queue and become durable together, with one fsync a file.

Writers number their batches 1, 2, 3 and so on for each table. A number that has been taken is a repetition, and a
number beyond the next one shows a gap. Repetitions are acknowledged and not written.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from incr_core.errors import ArgumentError, IncrError, StorageError
from incr_core.ingest._landing import LandingTable
from incr_core.ingest._room import LOOK, Room

__all__ = ["Delivery", "GroupCommit", "StoppingError"]

STOPS = "the server stops; send again what is not acknowledged"

MAX_TABLES = 1000
"""Tables that one server opens."""


class StoppingError(IncrError):
    """The server stops: batches that are not acknowledged have to be sent again."""


class _Entry(NamedTuple):
    delivery: Delivery
    sequence: int
    batch: pa.RecordBatch


class Delivery:
    """The batches of one stream, in order, from one writer to one table.

    Attributes:
        taken: Number of the last batch that is durable or in the queue.
        landed: Number of the last durable batch.
        fault: The reason why no more batches are taken, if there is one.
        ended: Whether the client has sent its last batch.
    """

    def __init__(self, table: LandingTable, writer: str | None) -> None:
        self.table, self.writer = table, writer
        self.taken = self.landed = 0 if writer is None else int(table.positions.get(writer, 0))
        self.begun = writer is None or writer in table.positions
        self.fault: IncrError | None = None
        self.ended = False

    @property
    def is_complete(self) -> bool:
        """Whether the client has sent its last batch, and all are durable."""
        return self.ended and self.landed >= self.taken


class GroupCommit:
    """Queue of batches, and the thread that writes them.

    Args:
        folder: Folder of the tables.
        pending: Bytes of batches that may wait, or be in writing. `submit` blocks beyond it.
        group: Bytes after which a file is written without waiting for more.
        linger: Seconds that a group waits for more batches.
        room: Limit of the folder.
        schema: Columns of each table; None takes those of its first rows.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     commit = GroupCommit(Path(folder), linger=0.0)
        ...     delivery = commit.open("people", "sensor")
        ...     commit.submit(delivery, 1, pa.record_batch({"x": [1]})); found = commit.wait(delivery, 0)
        ...     commit.submit(delivery, 1, pa.record_batch({"x": [1]})); commit.end(delivery); commit.close()
        ...     found, len(delivery.table.files())
        (1, 1)
    """

    def __init__(
        self,
        folder: Path,
        *,
        pending: int = 256 << 20,
        group: int = 64 << 20,
        linger: float = 0.05,
        room: Room | None = None,
        schema: pa.Schema | None = None,
    ) -> None:
        self._folder, self._schema = folder, schema
        self._pending, self._group, self._linger = pending, group, linger
        self._room = room or Room()
        self._tables: dict[str, LandingTable] = {}
        self._open: dict[tuple[str, str], Delivery] = {}
        self._streams: set[Delivery] = set()
        self._queue: deque[_Entry] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="incr-ingest", daemon=True)
        self._thread.start()

    # -- streams

    def open(self, name: str, writer: str | None) -> Delivery:
        """Begin a stream. An earlier stream of the same writer takes no more batches from then on.

        Raises:
            ArgumentError: The name of the table is none, or the table has other columns than expected.
        """
        with self._changed:
            table = self._table(name)
            delivery = Delivery(table, writer)
            if writer is not None:
                before = self._open.get((name, writer))
                if before is not None:
                    fault = ArgumentError(f'writer "{writer}": has begun another stream to {name}; use one at a time')
                    before.fault = before.fault or fault
                    delivery.taken, delivery.begun = max(before.taken, delivery.landed), before.begun
                self._open[name, writer] = delivery
            self._streams.add(delivery)
            self._changed.notify_all()
            return delivery

    def end(self, delivery: Delivery) -> None:
        """End a stream, of which nothing waits any more or nobody waits for it."""
        with self._changed:
            self._streams.discard(delivery)
            self._close(delivery)
            self._changed.notify_all()

    def finish(self, delivery: Delivery) -> None:
        """Note that the last batch of a stream has been queued."""
        with self._changed:
            delivery.ended = True
            self._changed.notify_all()

    def refuse(self, delivery: Delivery, fault: IncrError) -> None:
        """Take no more batches of a stream; what is queued still lands."""
        with self._changed:
            delivery.fault = delivery.fault or fault
            self._changed.notify_all()

    def position(self, name: str, writer: str) -> int:
        """Return the number of the last durable batch of a writer; 0 for an unknown one."""
        with self._changed:
            return int(self._table(name).positions.get(writer, 0))

    def submit(self, delivery: Delivery, sequence: int, batch: pa.RecordBatch) -> None:
        """Queue a batch, unless it is a repetition; block while the queue is full.

        Raises:
            IncrError: The columns or the number are not those of the table or the writer, an earlier batch could not be
                written, or the server stops.
        """
        with self._changed:
            self._refuse(delivery)
            if sequence <= delivery.taken:
                return
            if sequence != delivery.taken + 1 and delivery.begun:
                raise ArgumentError(
                    f"sequence: expected {delivery.taken + 1} or a repetition, got {sequence}; send the batches between"
                )
            delivery.table.check(batch.schema)
            self._changed.wait_for(
                lambda: self._bytes == 0 or self._bytes + batch.nbytes <= self._pending or self._ended(delivery)
            )
            self._refuse(delivery)
            if delivery.table.schema is None:  # the first rows decide, also for those that are queued behind them
                delivery.table.schema = batch.schema.remove_metadata()
            delivery.table.check(batch.schema)
            self._queue.append(_Entry(delivery, sequence, batch))
            self._bytes += batch.nbytes
            delivery.taken, delivery.begun = sequence, True
            self._changed.notify_all()

    def wait(self, delivery: Delivery, known: int, timeout: float | None = None) -> int:
        """Wait until more than `known` batches of a stream are durable; return the number of the last one.

        Raises:
            IncrError: The stream has a fault, and nothing more becomes durable.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: delivery.landed > known or delivery.fault is not None or delivery.is_complete, timeout
            )
            if delivery.landed <= known and delivery.fault is not None:
                raise delivery.fault
            return delivery.landed

    def close(self, patience: float = 2.0) -> None:
        """Write what is queued, unless there is no room for it, and end all streams.

        Args:
            patience: Seconds to wait for streams to send their last acknowledgements.
        """
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()
        with self._changed:
            self._changed.wait_for(lambda: not self._streams, patience)

    # -- the thread

    def _table(self, name: str) -> LandingTable:
        if name not in self._tables:
            if len(self._tables) >= MAX_TABLES:
                raise ArgumentError(
                    f"table: expected at most {MAX_TABLES:,} tables, got {name} too; use another server"
                )
            self._tables[name] = LandingTable(self._folder, name, self._schema)
        return self._tables[name]

    def _ended(self, delivery: Delivery) -> bool:
        return self._stop.is_set() or delivery.fault is not None

    def _refuse(self, delivery: Delivery) -> None:
        if delivery.fault is not None:
            raise delivery.fault
        if self._stop.is_set():
            raise StoppingError(STOPS)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stop.is_set())
                if not self._queue:
                    self._fail(None, StoppingError(STOPS))
                    return
                until = time.monotonic() + self._linger
                self._changed.wait_for(
                    lambda: self._bytes >= self._group or self._stop.is_set(), until - time.monotonic()
                )
                tables = list(dict.fromkeys(entry.delivery.table for entry in self._queue))
            table = next((one for one in tables if self._room.free(one)), None)
            if table is not None:
                self._land(table)
            elif self._stop.wait(LOOK):
                with self._changed:
                    self._fail(None, StoppingError(STOPS))
                return

    def _land(self, table: LandingTable) -> None:
        """Write the first entries of a table as one file."""
        taken, size = list[_Entry](), 0
        with self._changed:
            for entry in self._queue:
                if entry.delivery.table is table and (not taken or size + entry.batch.nbytes <= self._group):
                    taken.append(entry)
                    size += entry.batch.nbytes
                elif entry.delivery.table is table:
                    break
        positions = {one.delivery.writer: str(one.sequence) for one in taken if one.delivery.writer is not None}
        try:
            table.land([one.batch for one in taken], positions)
        except Exception as error:  # of this table: a full disk, or rows that Arrow cannot write
            fault = error if isinstance(error, IncrError) else StorageError(f"{table.folder}: {error}")
            with self._changed:
                self._fail(table, fault)
            return
        with self._changed:
            done = set(map(id, taken))
            self._queue = deque(one for one in self._queue if id(one) not in done)
            self._bytes -= size
            for one in taken:
                one.delivery.landed = max(one.delivery.landed, one.sequence)
                newest = self._open.get((table.name, one.delivery.writer or ""))
                if newest is not None:  # another stream of the same writer may wait for a repetition
                    newest.landed = max(newest.landed, one.sequence)
                    self._close(newest)
            self._changed.notify_all()

    def _close(self, delivery: Delivery) -> None:
        """Drop the record of a stream that has ended and of which nothing is queued: its position is in the table."""
        place = delivery.table.name, delivery.writer or ""
        if delivery not in self._streams and delivery.taken == delivery.landed and self._open.get(place) is delivery:
            del self._open[place]

    def _fail(self, table: LandingTable | None, fault: IncrError) -> None:
        """Drop what is queued for a table, or for all, and end their streams."""
        dropped = [one for one in self._queue if table in (None, one.delivery.table)]
        self._queue = deque(one for one in self._queue if table not in (None, one.delivery.table))
        self._bytes -= sum(one.batch.nbytes for one in dropped)
        for delivery in self._streams:
            if table in (None, delivery.table):
                delivery.fault = delivery.fault or fault
        for (name, writer), delivery in list(self._open.items()):
            if table is None or name == table.name:
                delivery.taken = int(delivery.table.positions.get(writer, 0))
                delivery.fault = delivery.fault or fault
        for one in self._tables.values() if table is None else [table]:
            one.schema = one.durable_schema
        self._changed.notify_all()
