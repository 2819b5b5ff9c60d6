"""Answer questions over HTTP with a run's champion, whichever that is by now.

Every request ends in an answer or in a short refusal, which never repeats what was sent; none changes what is answered
later. A body is read up to a limit, and one at a time is worked on: that bounds what a request takes of memory.
"""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from uvicorn import Config, Server

from incr_core.commands._request import RequestError, body_schema, columns_of, rows_in, table_of
from incr_core.data.timeline import columns_asked
from incr_core.errors import IncrError, JobError, StreamError
from incr_core.registry import champion_of
from incr_core.runs import Version
from incr_core.shown import shown
from incr_core.storage import located

__all__ = ["MAX_BYTES", "MAX_ROWS", "Champion", "app", "serve"]

MAX_BYTES = 8_000_000
"""Of a request's body."""

MAX_ROWS = 10_000
"""Of a request."""

PATIENCE = 60.0
"""Seconds in which a request's body must have come."""

LONGEST = 300
"""Bytes of what is said about a request that is refused."""

ANSWER = {
    "type": "object",
    "required": ["version", "predictions", "refused"],
    "properties": {
        "version": {"type": "integer"},
        "predictions": {"type": "array", "items": {"type": ["object", "null"]}},
        "refused": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["row", "column", "reason"],
                "properties": {
                    "row": {"type": "integer"},
                    "column": {"type": ["string", "null"]},
                    "reason": {"type": "string"},
                },
            },
        },
    },
}
"""What is answered, as a JSON schema."""

REFUSALS = {
    400: "The body is no JSON.",
    408: "The body did not come in time.",
    413: "The body has too many bytes or rows.",
    415: "The body is not said to be JSON.",
    422: "The rows are not as the model's columns want them.",
}


class Champion:
    """The champion of a run directory, read anew when another one is published or rolled back to.

    Where the new one cannot be read, the old one goes on answering and `fault` says why.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = located(directory)
        self.fault: str | None = None
        self.lock = threading.RLock()  # a learner predicts for one at a time: it swaps torch's random state
        self._version = Version.load(directory)
        self.columns = columns_of(self._version.job)  # of the job: all its versions have the same

    @property
    def required(self) -> list[str]:
        """The columns without which a request is refused."""
        job = self._version.job
        return columns_asked(job.encoder, job.rates(), job.stream.predict_at, labelled=False)

    def version(self) -> Version:
        """The version that answers now."""
        with self.lock:
            try:
                published = champion_of(self.directory)
                if published is not None and published != self._version.number:
                    self._version = Version.load(self.directory, published)
                    self.fault = None
            except IncrError as error:
                self.fault = str(error)
            return self._version

    def predict(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """An answer for each row, null where it cannot be used, and why not.

        Raises StreamError where the rows are not as the model's columns want them.
        """
        with self.lock:
            version = self.version()
            table, bad = version.answer(table_of(rows, self.columns), "the request")
        refused: dict[int, tuple[str | None, str]] = {row.offset: (row.column, row.reason) for row in bad}
        answers = table.drop_columns(["row"]).to_pylist()
        for row, answer in enumerate(answers):
            if row not in refused and not _is_finite(answer):
                refused[row] = None, "expected a finite answer, got another of the model; its numbers may be too large"
        return {
            "version": version.number,
            "predictions": [None if row in refused else answer for row, answer in enumerate(answers)],
            "refused": [{"row": row, "column": name, "reason": why} for row, (name, why) in sorted(refused.items())],
        }

    def describe(self) -> dict[str, Any]:
        """What is known of the version that answers now."""
        manifest = self.version().manifest
        told = ("version", "model_sha256", "created", "increment", "name", "rows")
        return {name: manifest[name] for name in told}


def app(champion: Champion, *, max_bytes: int = MAX_BYTES, max_rows: int = MAX_ROWS) -> FastAPI:
    """The three questions: POST /predict with {"rows": [{...}, ...]}, GET /version, GET /health.

    max_bytes, max_rows: of one request. What it may hold is told at /openapi.json, by the job's columns.
    """
    made = FastAPI(
        title="incr",
        description=f"Predictions of the champion of {shown(champion.directory)}",
        redirect_slashes=False,
    )

    def answer(body: bytes) -> dict[str, Any]:
        with champion.lock:  # parsed rows take many times the memory of a body
            return champion.predict(rows_in(body, max_rows))

    async def predict(request: Request) -> JSONResponse:
        try:
            return JSONResponse(await run_in_threadpool(answer, await _body(request, max_bytes)))
        except StreamError as error:
            status = error.status if isinstance(error, RequestError) else 422
            raise HTTPException(status, _short(str(error))) from None

    schema = body_schema(champion.columns, champion.required, max_rows)
    made.post(
        "/predict",
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
        responses={200: {"content": {"application/json": {"schema": ANSWER}}}, **_refusals()},
    )(predict)

    @made.get("/version")
    def version() -> dict[str, Any]:
        return champion.describe()

    @made.get("/health")
    def health() -> dict[str, Any]:
        number = champion.version().number
        return {"status": "ok" if champion.fault is None else "stale", "version": number, "fault": champion.fault}

    return made


async def _body(request: Request, most: int) -> bytes:
    """The body of a request; RequestError where it is not JSON, too long, or does not come in time."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" or request.headers.get("content-encoding", "identity") != "identity":
        raise RequestError(415, "content-type: expected application/json, not compressed, got another; send it as JSON")
    too_long = RequestError(413, f"body: expected at most {most:,} bytes, got more; ask in several requests")
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > most:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_long
    except TimeoutError:
        raise RequestError(408, f"body: expected within {PATIENCE:g} s, got a part of it; send it again") from None
    except ClientDisconnect:
        raise RequestError(400, "body: expected a whole one, got a part of it") from None
    return bytes(body)


def _refusals() -> dict[int | str, dict[str, Any]]:
    detail = {"type": "object", "required": ["detail"], "properties": {"detail": {"type": "string"}}}
    return {
        status: {"description": text, "content": {"application/json": {"schema": detail}}}
        for status, text in REFUSALS.items()
    }


def _short(message: str) -> str:
    """The message, or the beginning of it that is no longer than a refusal may be."""
    whole = message.encode()
    return message if len(whole) <= LONGEST else whole[:LONGEST].decode(errors="ignore") + "..."


def _is_finite(answer: Mapping[str, Any]) -> bool:
    return all(math.isfinite(value) for value in answer.values() if isinstance(value, float))


def serve(
    directory: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    max_bytes: int = MAX_BYTES,
    max_rows: int = MAX_ROWS,
) -> None:
    """Answer until told to stop. Port 0 takes any that is free; the address is printed once it is open."""
    for name, value in (("--max-bytes", max_bytes), ("--max-rows", max_rows)):
        if value < 1:
            raise JobError(f"{name}: expected at least 1, got {value}")
    champion = Champion(directory)
    made = app(champion, max_bytes=max_bytes, max_rows=max_rows)
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        raise JobError(f"--port {port}: cannot be opened on {host}: {error.strerror}; choose another") from error
    with listening:
        bound = listening.getsockname()[1]
        where = shown(directory)
        print(f"serving {where}, version {champion.version().number}, on http://{host}:{bound}", flush=True)
        # h11 limits what it takes of headers.
        Server(Config(made, log_level="warning", http="h11", ws="none")).run(sockets=[listening])
