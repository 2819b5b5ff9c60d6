"""A run to ask: rows with a number, lists, a category and times, and ways to ask it without a network."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
import torch

from incr_core.job import Job
from incr_core.runs import Version, run

ROW = {"height": 170.5, "image": [1, 2, 3, 4], "colour": "red", "at": "2020-01-01T03:00:00"}
"""A row to predict."""


def rows(count: int, width: int = 4, seed: int = 0) -> pa.Table:
    """Labelled rows, half an hour apart, whose images are `width` numbers long."""
    draw = np.random.default_rng(seed)
    image = pa.FixedSizeListArray.from_arrays(pa.array(draw.normal(size=count * width).astype(np.float32)), width)
    at = np.datetime64("2020-01-01", "s") + np.arange(count) * np.timedelta64(1800, "s")
    height, colour = draw.normal(170, 10, count), draw.choice(["red", "green"], count)
    return pa.table({"height": height, "image": image, "colour": colour, "at": at, "y": draw.integers(0, 2, count)})


def learned(folder: Path, every: str | int = "10h") -> Path:
    """A run on 60 of them, with a rate by colour and a memory."""
    pq.write_table(rows(60), folder / "rows.parquet")
    document = {
        "stream": {"path": str(folder / "rows.parquet"), "every": every, "predict_at": "at"},
        "features": {
            "label": "y",
            "numeric": ["height", "image"],
            "categorical": ["colour"],
            "buckets": 8,
            "rate": [{"by": ["colour"], "window": "6h"}],
        },
        "model": {"hidden": [4], "embedding": 2},
        "learner": {"objective": "binary"},
        "strategy": [{"name": "replay", "capacity": 20}],
    }
    run(Job.from_document(document).resolved(), folder / "run")
    return folder / "run"


def learned_folder(folder: Path) -> tuple[Path, Path]:
    """A run that has learned the rows of a folder, and that folder."""
    data = folder / "data"
    data.mkdir()
    pq.write_table(rows(60), data / "a.parquet")
    document = {
        "stream": {"path": str(data), "every": 20},
        "features": {"label": "y", "numeric": ["height", "image"], "categorical": ["colour"], "buckets": 8},
        "model": {"hidden": [4], "embedding": 2},
        "learner": {"objective": "binary"},
        "publish": {"keep": 3},
    }
    (folder / "job.toml").write_text(tomli_w.dumps(document))
    run(Job.read(folder / "job.toml"), folder / "run")
    return folder / "run", data


def hashes(folder: Path) -> dict[str, str]:
    """Every file of a folder, and its content's hash."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def state(version: Version) -> dict[str, Any]:
    """All that a version answers from, bit for bit: weights, what learning goes on from, and the shape of rows."""
    encoder = version.job.encoder
    return {
        "weights": _bits(version.learner.model.state_dict()),
        "learner": _bits(version.learner.state_dict()),
        "encoder": (dict(encoder.widths), encoder.width, {name: list(at) for name, at in encoder.places.items()}),
        "random": torch.get_rng_state().tolist(),
    }


def _bits(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).tolist()
    if isinstance(value, Mapping):
        return {name: _bits(entry) for name, entry in value.items()}
    return [_bits(entry) for entry in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


class Asking:
    """Asks an ASGI application, without a network: (status, body) of an answer."""

    def __init__(self, made: Any) -> None:
        self._made = made
        self._loop = asyncio.Runner()

    def post(self, body: bytes | list[bytes], path: str = "/predict", **headers: str) -> tuple[int, bytes]:
        """The answer to POST with a body, or one in pieces."""
        told = {"content_type": "application/json"} | headers
        return self._loop.run(self._asked("POST", path, [body] if isinstance(body, bytes) else body, told))

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """The answer to GET."""
        return self._loop.run(self._asked("GET", path, [], headers))

    def rows(self, *asked: Any) -> tuple[int, Any]:
        """The status, and the answer read, for rows."""
        status, body = self.post(json.dumps({"rows": asked}).encode())
        return status, json.loads(body)

    async def _asked(self, method: str, path: str, pieces: list[bytes], headers: dict[str, str]) -> tuple[int, bytes]:
        told = {name.replace("_", "-"): text for name, text in headers.items()}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), text.encode()) for name, text in told.items()],
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
        }
        left, status, answer = list(pieces), 0, bytearray()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": left.pop(0) if left else b"", "more_body": bool(left)}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            answer.extend(message.get("body", b""))

        await self._made(scope, receive, send)
        return status, bytes(answer)

    def close(self) -> None:
        """End its loop."""
        self._loop.close()
