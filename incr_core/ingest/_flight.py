"""Arrow Flight server that takes record batches and acknowledges them when they are durable.

    do_put     descriptor path [TABLE] or [TABLE, WRITER]; app metadata of a batch: its number, in decimal
    metadata   {"sequence": N}: batches up to N are durable; {"error": TEXT}: nothing more is taken on this stream
    do_action  "position", body {"table": TABLE, "writer": WRITER}: {"sequence": N}, the last durable batch of a writer

A stream without a writer counts its batches itself; what it repeats is written again.
"""

from __future__ import annotations

import hmac
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from pyarrow import flight

from incr_core.errors import ArgumentError, IncrError
from incr_core.ingest._group_commit import Delivery, GroupCommit

__all__ = ["FlightIngest"]

MAX_NAME = 200


class FlightIngest(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow has no types
    """Server of one `GroupCommit`, which answers as soon as it is constructed.

    Args:
        location: Address, for example "grpc://127.0.0.1:8815"; port 0 takes a free one.
        commit: Queue of the batches.
        token: Token that each call must present as `authorization: Bearer TOKEN`; None admits all.
        tls: Certificate and key, for a location that begins with "grpc+tls".
        max_bytes: Bytes of one batch.
        streams: Streams that are open at a time; each has two threads.

    Raises:
        ArgumentError: The address cannot be opened, or the certificate cannot be used.
    """

    def __init__(
        self,
        location: str,
        commit: GroupCommit,
        *,
        token: str | None = None,
        tls: tuple[bytes, bytes] | None = None,
        max_bytes: int = 64 << 20,
        streams: int = 256,
    ) -> None:
        self._commit, self._max_bytes = commit, max_bytes
        self._slots = threading.BoundedSemaphore(streams)
        middleware = {} if token is None else {"token": _TokenCheck(token)}
        try:
            super().__init__(location, tls_certificates=None if tls is None else [tls], middleware=middleware)
        except (pa.ArrowException, OSError) as error:
            raise ArgumentError(
                f"port: {location} cannot be opened: {error}; choose another port, or correct the certificate"
            ) from error

    def do_put(
        self,
        context: Any,
        descriptor: Any,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.FlightMetadataWriter,
    ) -> None:
        """Take the batches of one stream until it ends."""
        if not self._slots.acquire(blocking=False):
            raise flight.FlightUnavailableError("expected fewer streams at a time, got one too many; try again later")
        try:
            with _Translated():
                self._take(descriptor, reader, writer)
        finally:
            self._slots.release()

    def _take(self, descriptor: Any, reader: Any, writer: Any) -> None:
        table, name = _names([part.decode(errors="replace") for part in descriptor.path or []])
        delivery = self._commit.open(table, name)
        acknowledging = threading.Thread(target=self._acknowledge, args=(delivery, writer), daemon=True)
        try:
            delivery.table.check(reader.schema)
            acknowledging.start()
            last = 0
            while True:
                try:
                    chunk = reader.read_chunk()
                except StopIteration:
                    break
                if chunk.data is None:
                    continue
                last = self._number(chunk, delivery, last)
                self._check(chunk.data)
                self._commit.submit(delivery, last, chunk.data)
            self._commit.finish(delivery)
        except IncrError as error:
            # The client learns it from the acknowledgements: this call cannot end while the client goes on writing.
            self._commit.refuse(delivery, error)
            if acknowledging.is_alive():
                _drain(reader)
            raise
        except BaseException as error:  # the connection is gone
            self._commit.refuse(delivery, ArgumentError(f"the stream has ended: {error}"))
            raise
        finally:
            if acknowledging.is_alive():
                acknowledging.join()
            self._commit.end(delivery)
        if delivery.fault is not None and delivery.landed < last:
            raise delivery.fault

    def _number(self, chunk: Any, delivery: Delivery, last: int) -> int:
        if delivery.writer is None:
            return last + 1
        text = b"" if chunk.app_metadata is None else chunk.app_metadata.to_pybytes()
        if not (text.isdigit() and len(text) <= 18 and int(text) > 0):
            raise ArgumentError("sequence: expected the number of the batch as its app_metadata, from 1, got another")
        return int(text)

    def _check(self, batch: pa.RecordBatch) -> None:
        if batch.nbytes > self._max_bytes:
            raise ArgumentError(
                f"batch: expected at most {self._max_bytes:,} bytes, got {batch.nbytes:,}; send smaller batches"
            )
        try:
            batch.validate(full=True)
        except pa.ArrowException as error:
            raise ArgumentError(f"batch: expected valid columns, got {error}; correct the sender") from error

    def _acknowledge(self, delivery: Delivery, writer: Any) -> None:
        """Send the number of the last durable batch whenever there is a new one, until the stream has ended."""
        known = delivery.landed
        try:
            if known:
                writer.write(_json({"sequence": known}))
            while not (delivery.is_complete and known >= delivery.taken):
                landed = self._commit.wait(delivery, known)
                if landed > known:
                    writer.write(_json({"sequence": landed}))
                known = landed
        except IncrError as error:
            try:
                writer.write(_json({"error": str(error), "again": not isinstance(error, ArgumentError)}))
            except (pa.ArrowException, OSError):
                return
        except (pa.ArrowException, OSError):  # the client is gone; what it does not know it sends again
            return

    def do_action(self, context: Any, action: Any) -> Iterator[bytes]:
        """Answer "position": the number of the last durable batch of a writer."""
        with _Translated():
            if action.type != "position":
                raise ArgumentError(f'action: expected "position", got "{action.type}"')
            try:
                asked = json.loads(action.body.to_pybytes())
                names = [asked["table"], asked["writer"]]
            except (ValueError, KeyError, TypeError) as error:
                raise ArgumentError(
                    'action: expected {"table": ..., "writer": ...} as JSON, got another body'
                ) from error
            table, name = _names(names)
            return iter([_json({"sequence": self._commit.position(table, name or "")}).to_pybytes()])

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        """Return the actions with their descriptions."""
        return [("position", "number of the last durable batch of a writer")]


def _json(document: Mapping[str, Any]) -> pa.Buffer:
    return pa.py_buffer(json.dumps(document).encode())


def _names(path: list[Any]) -> tuple[str, str | None]:
    """Return table and writer of a path."""
    table, name = [*path, None, None][:2]
    good = 1 <= len(path) <= 2 and all(isinstance(part, str) and 0 < len(part) <= MAX_NAME for part in path)
    good = good and not str(name).startswith("redis:")  # the positions of consumers
    if not good or not isinstance(table, str):
        raise ArgumentError("path: expected [TABLE] or [TABLE, WRITER] as the descriptor's path, got another")
    return table, name


def _drain(reader: Any) -> None:
    """Read a stream to its end without keeping anything: a call must not end while its client writes."""
    try:
        while True:
            reader.read_chunk()
    except (StopIteration, pa.ArrowException, OSError):
        return


class _Translated:
    """Context that converts errors of incr to those of Flight."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # Errors of Flight travel without a traceback.
        if isinstance(error, ArgumentError):
            raise flight.FlightServerError(str(error)) from None
        if isinstance(error, IncrError):  # the server stops, or cannot write at present
            raise flight.FlightUnavailableError(str(error)) from None


class _TokenCheck(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    def __init__(self, token: str) -> None:
        super().__init__()
        self._expected = f"Bearer {token}".encode()

    def start_call(self, info: Any, headers: Mapping[str, list[str]]) -> None:
        """Reject a call without the token."""
        got = next((values for name, values in headers.items() if name.lower() == "authorization"), [""])
        if len(got) != 1 or not hmac.compare_digest(str(got[0]).encode(errors="replace"), self._expected):
            raise flight.FlightUnauthenticatedError("authorization: expected Bearer and the token of this server")
