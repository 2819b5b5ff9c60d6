"""Answer questions over HTTP with a run's champion, whichever that is by now."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from uvicorn import Config, Server

from incr_core.data.encoding import text
from incr_core.errors import IncrError, JobError, StreamError
from incr_core.registry import champion_of, read_manifest
from incr_core.runs import Version

__all__ = ["Champion", "app", "serve"]

MOST_ROWS = 100_000
"""In one question."""


class Rows(BaseModel):
    """A question: rows, each a value for every feature; one left out, or null, is missing."""

    rows: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_ROWS)


class Champion:
    """The champion of a run directory, read anew when another one is published or rolled back to.

    Where the new one cannot be read, the old one goes on answering and `fault` says why.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.fault: str | None = None
        self._lock = threading.RLock()  # a learner predicts for one at a time: it swaps torch's random state
        self._version = Version.load(directory)

    def version(self) -> Version:
        """The version that answers now."""
        with self._lock:
            published = champion_of(self.directory)
            if published is not None and published != self._version.number:
                try:
                    self._version, self.fault = Version.load(self.directory, published), None
                except IncrError as error:
                    self.fault = str(error)
            return self._version

    def predict(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """An answer for each row, null where it cannot be used, and why not."""
        with self._lock:
            version = self.version()
            table, bad = version.answer(_table(rows), "the request")
        refused = {row.offset for row in bad}
        answers = table.drop_columns(["row"]).to_pylist()
        return {
            "version": version.number,
            "predictions": [None if row in refused else answer for row, answer in enumerate(answers)],
            "refused": [{"row": row.offset, "column": row.column, "reason": row.reason} for row in bad],
        }

    def describe(self) -> dict[str, Any]:
        """What is known of the version that answers now."""
        manifest = read_manifest(self.directory / "versions" / str(self.version().number))
        told = ("version", "model_sha256", "created", "increment", "name", "rows")
        return {name: manifest[name] for name in told}


def app(champion: Champion) -> FastAPI:
    """The three questions: POST /predict with {"rows": [{...}, ...]}, GET /version, GET /health."""
    made = FastAPI(title="incr", description=f"Predictions of the champion of {champion.directory}")

    @made.post("/predict")
    def predict(question: Rows) -> dict[str, Any]:
        try:
            return champion.predict(question.rows)
        except StreamError as error:
            raise HTTPException(422, str(error)) from error

    @made.get("/version")
    def version() -> dict[str, Any]:
        return champion.describe()

    @made.get("/health")
    def health() -> dict[str, Any]:
        number = champion.version().number
        return {"status": "ok" if champion.fault is None else "stale", "version": number, "fault": champion.fault}

    return made


def serve(directory: str | Path, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Answer until told to stop. Port 0 takes any that is free; the address is printed once it is open."""
    champion = Champion(directory)
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        raise JobError(f"--port {port}: cannot be opened on {host}: {error.strerror}; choose another") from error
    with listening:
        bound = listening.getsockname()[1]
        print(f"serving {directory}, version {champion.version().number}, on http://{host}:{bound}", flush=True)
        Server(Config(app(champion), log_level="warning")).run(sockets=[listening])


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a table. A column with texts among its values is all text, of which what are no numbers will be told."""
    columns: dict[str, pa.Array] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        if any(isinstance(value, str) for value in values):
            values = [text(value) if isinstance(value, bool | int | float) else value for value in values]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise StreamError(f"{name}: expected values of one type, got several: {error}") from error
    return pa.table(columns)
