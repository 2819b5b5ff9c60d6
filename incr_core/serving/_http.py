"""HTTP requests and replies as the app sees them, and the bounded parser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from incr_core.serving._request import RequestError

__all__ = ["BoundedHttp", "Receive", "Reply", "Scope", "Send", "body_of", "header", "refusal", "said"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PATIENCE = 60.0
"""Seconds within which a request's body must have arrived."""

LONGEST = 300
"""Maximum bytes of the reason of a refusal."""

HEAD = 65_536
"""Bytes of a request besides its body. The framing of a body in chunks may be a multiple of the body's length."""


@dataclass(slots=True)
class Reply:
    """A reply: status, body and media type."""

    status: int
    body: bytes
    kind: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def sent(self, send: Send) -> None:
        """Send the reply."""
        told = [(b"content-type", self.kind), (b"content-length", str(len(self.body)).encode()), *self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": told})
        await send({"type": "http.response.body", "body": self.body})


def said(document: Any, status: int = 200) -> Reply:
    """Return a reply with a JSON document.

    Example:
        >>> said({"status": "ok"}).body
        b'{"status":"ok"}'
    """
    return Reply(status, json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())


def refusal(status: int, message: str) -> Reply:
    """Return a refusal with its reason; a long reason is cut.

    With status 408, 413 or 415 the connection is closed, because the rest of the request is not read.

    Example:
        >>> refusal(404, "no such page").body
        b'{"detail":"no such page"}'
    """
    whole = message.encode()
    short = message if len(whole) <= LONGEST else whole[:LONGEST].decode(errors="ignore") + "..."
    reply = said({"detail": short}, status)
    reply.headers = ((b"connection", b"close"),) if status in (408, 413, 415) else ()
    return reply


def header(scope: Scope, name: bytes) -> str:
    """Return a header of a request, or "" without it.

    Example:
        >>> header({"headers": [(b"host", b"here")]}, b"host")
        'here'
    """
    for found, value in scope["headers"]:
        if found == name:
            return str(value.decode("latin-1"))
    return ""


async def body_of(scope: Scope, receive: Receive, most: int) -> bytes:
    """Return the body of a request.

    Raises:
        RequestError: The body is too long, is incomplete, or does not arrive in time.
    """
    too_long = f"body: expected at most {most:,} bytes, got more; ask in several requests"
    told = header(scope, b"content-length")
    if told.isdecimal() and int(told) > most:
        raise RequestError(413, too_long)
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestError(400, "body: expected a whole one, got a part of it")
                body += message.get("body", b"")
                if len(body) > most:
                    raise RequestError(413, too_long)
                more = message.get("more_body", False)
    except TimeoutError:
        raise RequestError(408, f"body: expected within {PATIENCE:g} s, got a part of it; send it again") from None
    return bytes(body)


class BoundedHttp(HttpToolsProtocol):
    """Uvicorn's fast parser with a limit on the length of heads and trailers, which it does not limit itself."""

    beside = 0
    body = 0

    def data_received(self, data: bytes) -> None:
        """Read a piece of a request. Refuse the request if it has too many bytes besides its body."""
        self.beside += len(data)
        super().data_received(data)
        if self.beside > HEAD + 8 * self.body and not self.transport.is_closing():
            self.send_400_response("Request head too long.")

    def on_body(self, body: bytes) -> None:
        """Count bytes of the body."""
        self.beside -= len(body)
        self.body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Reset the counts for the next request."""
        self.beside = self.body = 0
        super().on_message_complete()
