"""Client of `incr ingest`: sends batches, keeps them until they are durable, and sends them again after a failure."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import flight

from incr_core.errors import ArgumentError, EngineError

__all__ = ["IngestWriter"]

PERMANENT = (ArgumentError, flight.FlightServerError, flight.FlightUnauthenticatedError)
"""Errors that another try does not change."""


class IngestWriter:
    """Writer of one table. Every batch lands exactly once, also if the server or the connection fails in between.

    A writer that begins again under its name continues with the number behind its last durable batch; `landed` says
    which batches of its source to skip.

    Args:
        address: Address of the server, for example "grpc://127.0.0.1:8815" or "grpc+tls://ingest.example:8815".
        table: Name of the table.
        name: Name of the writer. Two writers of a table that write at the same time need two names.
        token: Token of the server.
        ca: File of the certificate that signed the server's; None uses those of the system.
        pending: Bytes of batches that are sent and not acknowledged; `write` blocks beyond it.
        patience: Seconds without a connection or an acknowledgement after which `write` and `flush` raise.

    Attributes:
        landed: Number of batches that are durable, those of earlier writers of this name included.

    Raises:
        ArgumentError: The server rejects the table, the token or the columns.
        EngineError: The server does not respond.

    Example:
        >>> import tempfile
        >>> from incr_core.ingest import FlightIngest, GroupCommit
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     commit = GroupCommit(Path(folder)); server = FlightIngest("grpc://127.0.0.1:0", commit)
        ...     with IngestWriter(f"grpc://127.0.0.1:{server.port}", "people", "sensor-7") as writer:
        ...         writer.write(pa.table({"height": [170.0, 181.0]}))
        ...     commit.close(); server.shutdown(); writer.landed
        1
    """

    def __init__(
        self,
        address: str,
        table: str,
        name: str,
        *,
        token: str | None = None,
        ca: str | Path | None = None,
        pending: int = 64 << 20,
        patience: float = 60.0,
    ) -> None:
        self._address, self._table, self._name = address, table, name
        self._headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
        self._ca = None if ca is None else Path(ca).read_bytes()
        self._pending, self._patience = pending, patience
        self._unacknowledged: deque[tuple[int, pa.RecordBatch]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._stream: _Stream | None = None
        self._schema: pa.Schema | None = None
        self.landed = self._sent = self._retrying(self._position)

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Send rows as batches, in order; block while too many bytes are not acknowledged."""
        for batch in [rows] if isinstance(rows, pa.RecordBatch) else rows.to_batches():
            if self._schema is None:
                self._schema = batch.schema
            while self._bytes and self._bytes + batch.nbytes > self._pending:
                self._retrying(self._wait)
            self._sent += 1
            with self._changed:
                self._unacknowledged.append((self._sent, batch))
                self._bytes += batch.nbytes
            self._retrying(self._send)

    def flush(self) -> None:
        """Wait until all that was written is durable."""
        while self._unacknowledged:
            self._retrying(self._wait)

    def close(self) -> None:
        """Wait until all that was written is durable, and end the stream."""
        self.flush()
        self._drop()

    def __enter__(self) -> IngestWriter:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._drop()

    # -- one try each

    def _position(self) -> int:
        body = json.dumps({"table": self._table, "writer": self._name}).encode()
        with flight.connect(self._address, tls_root_certs=self._ca) as client:
            options = flight.FlightCallOptions(headers=self._headers, timeout=self._patience)
            (found,) = client.do_action(flight.Action("position", body), options)
            return int(json.loads(found.body.to_pybytes())["sequence"])

    def _send(self) -> None:
        """Send what the open stream has not sent; open one if there is none, which sends all again."""
        assert self._schema is not None
        if self._stream is None:
            self._acknowledged(self._position())
            self._stream = _Stream(self)
            self._stream.begin(self._address, self._ca, self._headers, [self._table, self._name], self._schema)
        for sequence, batch in list(self._unacknowledged):
            if sequence > self._stream.sent:
                self._stream.send(sequence, batch)

    def _wait(self) -> None:
        """Wait for an acknowledgement."""
        self._send()
        stream, known = self._stream, self.landed
        assert stream is not None
        with self._changed:
            if not self._unacknowledged:
                return
            self._changed.wait_for(lambda: self.landed > known or stream.fault is not None, self._patience)
            if self.landed > known:
                return
            raise stream.fault or flight.FlightTimedOutError(f"expected an acknowledgement in {self._patience:g} s")

    def _acknowledged(self, sequence: int) -> None:
        with self._changed:
            while self._unacknowledged and self._unacknowledged[0][0] <= sequence:
                self._bytes -= self._unacknowledged.popleft()[1].nbytes
            self.landed = max(getattr(self, "landed", 0), sequence)
            self._changed.notify_all()

    def _failed(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _drop(self) -> Exception | None:
        stream, self._stream = self._stream, None
        return None if stream is None else stream.end()

    def _retrying(self, step: Any) -> Any:
        until, pause = time.monotonic() + self._patience, 0.05
        while True:
            try:
                return step()
            except (pa.ArrowException, OSError, ArgumentError) as error:
                stream = self._stream
                ended = self._drop()  # the status of the call, which says more than that it has ended
                cause = ended or (error if stream is None or stream.fault is None else stream.fault)
                if stream is not None and isinstance(stream.fault, ArgumentError):
                    cause = stream.fault
                if isinstance(cause, PERMANENT):
                    raise ArgumentError(str(cause).partition(". Detail: ")[0]) from error
                if time.monotonic() + pause > until:
                    raise EngineError(
                        f"{self._address}: expected an answer within {self._patience:g} s, got: {cause}; "
                        "start the server, or correct the address"
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, 2.0)


class _Stream:
    """One open stream, and the thread that reads its acknowledgements."""

    def __init__(self, owner: IngestWriter) -> None:
        self._owner = owner
        self.sent = 0
        self.fault: Exception | None = None

    def begin(self, address: str, ca: bytes | None, headers: Any, path: list[str], schema: pa.Schema) -> None:
        self._client = flight.connect(address, tls_root_certs=ca)
        options = flight.FlightCallOptions(headers=headers)
        self._writer, self._reader = self._client.do_put(flight.FlightDescriptor.for_path(*path), schema, options)
        self._thread = threading.Thread(target=self._read, name="incr-ingest-client", daemon=True)
        self._thread.start()

    def send(self, sequence: int, batch: pa.RecordBatch) -> None:
        if self.fault is not None:
            raise self.fault
        self._writer.write_with_metadata(batch, str(sequence).encode())
        self.sent = sequence

    def _read(self) -> None:
        try:
            while (found := self._reader.read()) is not None:
                document = json.loads(found.to_pybytes())
                if "error" in document:
                    kind = flight.FlightUnavailableError if document.get("again") else ArgumentError
                    raise kind(document["error"])
                self._owner._acknowledged(int(document["sequence"]))
            raise flight.FlightUnavailableError("the server has ended the stream")
        except (pa.ArrowException, OSError, ArgumentError, ValueError) as error:
            self.fault = error
            self._owner._failed()

    def end(self) -> Exception | None:
        """Close the stream; return the error with which the call ended."""
        try:
            self._writer.done_writing()
            self._thread.join(5.0)
            self._writer.close()
        except (pa.ArrowException, OSError) as error:
            return error
        finally:
            self._client.close()
        return None
