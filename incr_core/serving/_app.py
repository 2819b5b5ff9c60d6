"""The HTTP interface of a server, as an ASGI application.

Every request ends in an answer or in a short refusal. A refusal never repeats a value of the request. Only /feedback
changes later answers. A body is read up to a limit, and large bodies are processed one at a time. Both bound the memory
that requests take.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from incr_core.errors import StorageError, StreamError
from incr_core.numerics import settle_arithmetic
from incr_core.serving._arrow import ARROW, BULK, bulk_answer, table_in
from incr_core.serving._asked import Question, ask
from incr_core.serving._batches import Batches
from incr_core.serving._champion import Champion
from incr_core.serving._documented import documented
from incr_core.serving._feedback import Feedback
from incr_core.serving._guard import Guard
from incr_core.serving._http import Receive, Reply, Scope, Send, body_of, header, refusal, said
from incr_core.serving._metrics import Metrics
from incr_core.serving._page import PAGE, PAGE_HEADERS
from incr_core.serving._request import RequestError, rows_in
from incr_core.serving._shadow import Shadow
from incr_core.serving._standing import counted, exposition, standing, workers_of
from incr_core.shown import shown

__all__ = ["MAX_BYTES", "MAX_ROWS", "App"]

MAX_BYTES = 8_000_000
"""Bytes of a request's body."""

MAX_ROWS = 10_000
"""Rows of a request."""

SMALL = 65_536
"""Bytes of a body up to which the event loop reads it. A thread reads larger bodies, one at a time."""

PUBLISH = 1.0
"""Seconds after which a worker publishes its counts again."""

Handler = Callable[[Scope, Receive], Awaitable[Reply]]


class App:
    """The HTTP interface of a server.

    POST /predict with {"rows": [{...}, ...]}, /feedback and /shadow; GET /version, /health, /ready, /metrics and
    /openapi.json. /openapi.json describes the rows of a request by the job's columns.

    Args:
        champion: The version that answers.
        max_bytes: Maximum size of a request's body.
        max_rows: Maximum number of rows of a request.
        feedback: Records predictions and receives labels. None does neither.
        guard: Token and limits of requests. None sets the defaults of `Guard`.
        shadow: Another version that predicts the same rows. None: there is none.
    """

    def __init__(
        self,
        champion: Champion,
        *,
        max_bytes: int = MAX_BYTES,
        max_rows: int = MAX_ROWS,
        feedback: Feedback | None = None,
        guard: Guard | None = None,
        shadow: Shadow | None = None,
    ) -> None:
        self.champion, self.feedback, self.shadow = champion, feedback, shadow
        self.max_bytes, self.max_rows = max_bytes, max_rows
        self.guard = guard or Guard()
        self.board, self.worker = self.guard.board, self.guard.worker
        self.before = self.board.published(self.worker)
        """Counts of the earlier workers at this worker's place."""
        self.metrics = Metrics()
        threads = champion.current.version.job.learner.threads
        self._pool = ThreadPoolExecutor(1, "asked", initializer=settle_arithmetic, initargs=(threads,))
        self._joiner = ThreadPoolExecutor(1, "feedback")
        self.batches = Batches(self._pool, self._keep, remote=feedback is not None and feedback.journal.remote)
        self._paths: dict[str, dict[str, Handler]] = {
            "/": {"GET": self._page},
            "/predict": {"POST": self._predict},
            "/version": {"GET": self._version},
            "/health": {"GET": self._health},
            "/ready": {"GET": self._ready},
            "/metrics": {"GET": self._metrics},
            "/standing": {"GET": self._standing},
            "/openapi.json": {"GET": self._openapi},
        }
        if feedback is not None:
            feedback.attend(champion)
            self._paths["/feedback"] = {"POST": self._feedback}
        if shadow is not None:
            self._paths["/shadow"] = {"POST": self._ask_shadow}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        path = scope["path"]
        reply = self.guard.enter(scope)
        if reply is None:
            try:
                reply = await self._answer(path, scope, receive)
            finally:
                self.guard.leave()
        self.metrics.answered(path if path in self._paths else "other", reply.status, time.perf_counter() - began)
        await reply.sent(send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Handle the events of the server's start and end."""
        publishing = asyncio.create_task(self._publish())
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                publishing.cancel()
                await asyncio.get_running_loop().run_in_executor(None, self.close)
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "lifespan.startup.complete"})

    async def _publish(self) -> None:
        """Publish the counts of this worker to the other workers of a server."""
        while self.board.workers > 1:
            self.board.publish(self.worker, counted(self))
            await asyncio.sleep(PUBLISH)

    async def _answer(self, path: str, scope: Scope, receive: Receive) -> Reply:
        methods = self._paths.get(path)
        if path == "/feedback" and self.feedback is None:
            return refusal(404, "/feedback: expected a server with a journal, got none; start it with --journal")
        if methods is None:
            return refusal(404, "Not Found")
        handler = methods.get(scope["method"])
        if handler is None:
            reply = refusal(405, "Method Not Allowed")
            reply.headers += ((b"allow", ", ".join(methods).encode()),)
            return reply
        try:
            return await handler(scope, receive)
        except StreamError as error:
            return refusal(error.status if isinstance(error, RequestError) else 422, str(error))
        except StorageError as error:
            return refusal(503, str(error))

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document of this server."""
        return documented(
            self.champion, self.max_rows, feedback=self.feedback is not None, shadow=self.shadow is not None
        )

    def close(self) -> None:
        """End the threads, and close the journal and the shadow."""
        self.champion.close()
        self._pool.shutdown()
        self._joiner.shutdown()
        if self.feedback is not None:
            self.feedback.close()
        if self.shadow is not None:
            self.shadow.close()

    def _keep(self, questions: Sequence[Question], answers: Sequence[dict[str, Any]]) -> None:
        if self.feedback is not None:
            self.feedback.keep(questions, answers)
        for answer in answers:
            self.metrics.predicted(answer)
        if self.shadow is not None:
            self.shadow.watch(questions, answers)

    async def _body(self, scope: Scope, receive: Receive, *kinds: str) -> bytes:
        taken = ("application/json", *kinds)
        if (kind := _kind(scope)) not in taken:
            got = shown(kind, 60) or "none"
            raise RequestError(415, f"content-type: expected {' or '.join(taken)}, got {got}; send it as JSON")
        if (packed := header(scope, b"content-encoding")) not in ("", "identity"):
            got = shown(packed, 60)
            raise RequestError(415, f"content-encoding: expected none, got {got}; send the body uncompressed")
        return await body_of(scope, receive, self.max_bytes)

    async def _predict(self, scope: Scope, receive: Receive) -> Reply:
        body = await self._body(scope, receive, ARROW)
        if _kind(scope) == ARROW:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._bulk, body)
        if len(body) > SMALL:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._answered, body)
        return said(await self.batches.ask(self.champion.current.question(rows_in(body, self.max_rows))))

    def _answered(self, body: bytes) -> Reply:
        questions = [self.champion.current.question(rows_in(body, self.max_rows))]
        answers = ask(questions)
        self._keep(questions, answers)
        return said(answers[0])

    async def _ask_shadow(self, scope: Scope, receive: Receive) -> Reply:
        """Return the shadow's answer to the same request. Nothing is recorded."""
        body = await self._body(scope, receive)
        shadow, champion = self.shadow, self.champion.current
        assert shadow is not None

        def answered() -> dict[str, Any]:
            return shadow.answer(champion.question(rows_in(body, self.max_rows)))

        return said(await asyncio.get_running_loop().run_in_executor(self._pool, answered))

    def _bulk(self, body: bytes) -> Reply:
        table = table_in(body, BULK * self.max_rows)
        self.metrics.rows += len(table)
        return Reply(200, bulk_answer(self.champion.current, table), ARROW.encode())

    async def _feedback(self, scope: Scope, receive: Receive) -> Reply:
        body = await self._body(scope, receive)
        assert self.feedback is not None
        take = self.feedback.take
        return said(await asyncio.get_running_loop().run_in_executor(self._joiner, take, body, self.max_rows))

    async def _version(self, scope: Scope, receive: Receive) -> Reply:
        return said(self.champion.describe())

    async def _health(self, scope: Scope, receive: Receive) -> Reply:
        workers = workers_of(self)
        number, fault = workers[self.worker]["version"], workers[self.worker]["fault"]
        stale = any(one["fault"] is not None for one in workers.values())
        answer = {"status": "stale" if stale else "ok", "version": number, "fault": fault}
        if self.board.workers > 1:
            answer["worker"] = self.worker
            answer["workers"] = [
                {"worker": place, **{name: one[name] for name in ("pid", "version", "fault")}}
                for place, one in workers.items()
            ]
        return said(answer)

    async def _ready(self, scope: Scope, receive: Receive) -> Reply:
        fault = None if self.feedback is None else self.feedback.fault
        return said({"ready": fault is None, "fault": fault}, 200 if fault is None else 503)

    async def _metrics(self, scope: Scope, receive: Receive) -> Reply:
        told = await asyncio.get_running_loop().run_in_executor(self._joiner, exposition, self)
        return Reply(200, told, b"text/plain; version=0.0.4; charset=utf-8")

    async def _standing(self, scope: Scope, receive: Receive) -> Reply:
        return said(await asyncio.get_running_loop().run_in_executor(self._joiner, standing, self))

    async def _page(self, scope: Scope, receive: Receive) -> Reply:
        return Reply(200, PAGE, b"text/html; charset=utf-8", PAGE_HEADERS)

    async def _openapi(self, scope: Scope, receive: Receive) -> Reply:
        return said(self.openapi())


def _kind(scope: Scope) -> str:
    return header(scope, b"content-type").partition(";")[0].strip().lower()
