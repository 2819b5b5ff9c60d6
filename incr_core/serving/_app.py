"""The questions that a server answers, as an ASGI application.

Every request ends in an answer or in a short refusal, which never repeats what was sent; none changes what is answered
later. A body is read up to a limit, and of large ones one at a time is worked on: that bounds what requests take of
memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from incr_core.errors import StreamError
from incr_core.numerics import settle_arithmetic
from incr_core.serving._asked import ask
from incr_core.serving._batches import Batches
from incr_core.serving._champion import Champion
from incr_core.serving._documented import documented
from incr_core.serving._http import Receive, Reply, Scope, Send, body_of, header, refusal, said
from incr_core.serving._request import RequestError, rows_in

__all__ = ["MAX_BYTES", "MAX_ROWS", "App"]

MAX_BYTES = 8_000_000
"""Of a request's body."""

MAX_ROWS = 10_000
"""Of a request."""

SMALL = 65_536
"""Bytes of a body that the event loop itself reads; larger ones are read by a thread, one at a time."""

Handler = Callable[[Scope, Receive], Awaitable[Reply]]


class App:
    """POST /predict with {"rows": [{...}, ...]}, GET /version, /health, /openapi.json.

    Args:
        champion: who answers.
        max_bytes, max_rows: of one request. What it may hold is told at /openapi.json, by the job's columns.
    """

    def __init__(self, champion: Champion, *, max_bytes: int = MAX_BYTES, max_rows: int = MAX_ROWS) -> None:
        self.champion = champion
        self.max_bytes, self.max_rows = max_bytes, max_rows
        threads = champion.current.version.job.learner.threads
        self._pool = ThreadPoolExecutor(1, "asked", initializer=settle_arithmetic, initargs=(threads,))
        self._batches = Batches(self._pool)
        self._paths: dict[str, dict[str, Handler]] = {
            "/predict": {"POST": self._predict},
            "/version": {"GET": self._version},
            "/health": {"GET": self._health},
            "/openapi.json": {"GET": self._openapi},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        methods = self._paths.get(scope["path"])
        handler = None if methods is None else methods.get(scope["method"])
        if methods is None:
            reply = refusal(404, "Not Found")
        elif handler is None:
            reply = refusal(405, "Method Not Allowed")
            reply.headers += ((b"allow", ", ".join(methods).encode()),)
        else:
            try:
                reply = await handler(scope, receive)
            except StreamError as error:
                reply = refusal(error.status if isinstance(error, RequestError) else 422, str(error))
        await reply.sent(send)

    def openapi(self) -> dict[str, Any]:
        """What may be asked, as OpenAPI tells it."""
        return documented(self.champion, self.max_rows)

    def close(self) -> None:
        """End its thread."""
        self._pool.shutdown()

    async def _predict(self, scope: Scope, receive: Receive) -> Reply:
        kind = header(scope, b"content-type").partition(";")[0].strip().lower()
        if kind != "application/json" or header(scope, b"content-encoding") not in ("", "identity"):
            expected = "content-type: expected application/json, not compressed, got another; send it as JSON"
            raise RequestError(415, expected)
        body = await body_of(scope, receive, self.max_bytes)
        if len(body) > SMALL:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._answered, body)
        return said(await self._batches.ask(self.champion.current.question(rows_in(body, self.max_rows))))

    def _answered(self, body: bytes) -> Reply:
        return said(ask([self.champion.current.question(rows_in(body, self.max_rows))])[0])

    async def _version(self, scope: Scope, receive: Receive) -> Reply:
        return said(self.champion.describe())

    async def _health(self, scope: Scope, receive: Receive) -> Reply:
        champion = self.champion
        number, fault = champion.current.version.number, champion.fault
        return said({"status": "ok" if fault is None else "stale", "version": number, "fault": fault})

    async def _openapi(self, scope: Scope, receive: Receive) -> Reply:
        return said(self.openapi())
