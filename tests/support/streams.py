"""Small streams for the stream's tests."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from incr_core.batch import Batch
from incr_core.data.encoding import Encoder
from incr_core.data.rates import Rate
from incr_core.data.timeline import Increment, Stream
from incr_core.data.times import SECOND

HOUR = 3600 * SECOND

EVERY: list[str | int] = ["1h", "7h", "1d", 37, 1000, "file"]
"""Increments of every kind and size."""


def flights(rows: int, seed: int = 0, *, hours: float = 48.0, delay: float = 6.0) -> pa.Table:
    """Rows over `hours` hours of time, in time order; labels are known up to `delay` hours later.

    `gain` is an outcome of its own: it is known when `seen` says, before or after the label, or never.
    """
    draw = np.random.default_rng(seed)
    times = np.sort(draw.integers(0, int(hours * 3600), rows)) * SECOND + 1_356_998_400 * SECOND
    known = times + draw.integers(0, int(delay * 3600), rows) * SECOND
    return pa.table(
        {
            "at": pa.array(times, pa.timestamp("us")),
            "known": pa.array(known, pa.timestamp("us")),
            "x": draw.normal(size=rows),
            "n": pa.array(draw.integers(0, 9, rows), mask=draw.random(rows) < 0.1),
            "carrier": draw.choice(["AA", "UA", "DL", "B6"], rows),
            "minutes": draw.normal(size=rows) * 30,
            "late": draw.integers(0, 2, rows),
            "gain": draw.normal(size=rows),
            "seen": pa.array(
                times + draw.integers(0, int(2 * delay * 3600), rows) * SECOND,
                pa.timestamp("us"),
                mask=draw.random(rows) < 0.1,
            ),
        }
    )


def write(folder: Path, table: pa.Table, files: int) -> Path:
    """The table cut into `files` Parquet files of about equal size."""
    folder.mkdir(parents=True, exist_ok=True)
    cuts = np.linspace(0, len(table), files + 1).astype(int)
    for number, (start, stop) in enumerate(pairwise(cuts)):
        pq.write_table(table.slice(start, stop - start), folder / f"part-{number}.parquet")
    return folder


def encoder(**changes: Any) -> Encoder:
    """The encoder of `flights`."""
    arguments: dict[str, Any] = {"objective": "binary", "classes": None, "buckets": 16} | changes
    return Encoder("late", ["x", "n"], ["carrier"], **arguments)


RATES = (
    Rate([], "3h"),
    Rate(["carrier"], "6h", 0.3),
    Rate(["carrier"], "2h", 0.0, 5.0, "minutes"),
    Rate([], "4h", 0.0, 1.0, "gain", "seen"),
)


def stream(source: Any, **changes: Any) -> Stream:
    """The hourly stream of `flights`."""
    arguments: dict[str, Any] = {
        "encoder": encoder(),
        "every": "1h",
        "predict_at": "at",
        "label_at": "known",
        "rates": RATES,
    }
    return Stream(source, **(arguments | changes))


def untimed(source: Any, **changes: Any) -> Stream:
    """The rows of `flights` as they lie."""
    return Stream(source, encoder=encoder(), **changes)


def numeric(batch: Any) -> Any:
    """The numbers of a batch's rows."""
    return batch.inputs["numeric"]


def numbers_of(batch: Batch) -> torch.Tensor:
    """The numbers of a batch's rows, with categories beside them or without."""
    return batch.inputs["numeric"] if isinstance(batch.inputs, dict) else batch.inputs


def categories(batch: Batch) -> torch.Tensor:
    """The pairs of hashes of a batch's rows."""
    assert isinstance(batch.inputs, dict)
    return batch.inputs["categorical"]


def tensors(batch: Batch) -> list[torch.Tensor]:
    """All tensors of a batch."""
    found: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    batch.map(keep)
    return found


def same_batch(one: Batch, other: Batch) -> bool:
    """Whether two batches are the same, bit for bit."""
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs
    )


def same(one: Iterable[Increment], other: Iterable[Increment]) -> bool:
    """Whether two lists of increments are the same, with everything in them."""
    return all(
        (a.tick, a.bad, a.never, a.cursor) == (b.tick, b.bad, b.never, b.cursor)
        and same_batch(a.arriving, b.arriving)
        and same_batch(a.labelled, b.labelled)
        and a.history().equals(b.history())
        for a, b in zip(one, other, strict=True)
    )


def ids(batches: Iterable[Batch]) -> list[int]:
    """The row ids of some batches, in order."""
    return [row for batch in batches if batch.row_ids is not None for row in batch.row_ids.tolist()]


def faulty(folder: Path) -> dict[str, Any]:
    """Files with every fault that a stream goes on from, and the document of a job on them.

    Of 120 rows in four files, 30 are in one that is cut short, one is dated 2096, and ten come a second time.
    """
    table = flights(120).append_column("id", pa.array(range(120)))
    times = table["at"].cast(pa.int64()).to_numpy().copy()
    times[65] = 3_980_000_000 * SECOND
    table = table.set_column(0, "at", pa.array(times, pa.timestamp("us")))
    folder.mkdir(parents=True)
    for part in range(4):
        pq.write_table(table.slice(30 * part, 30), folder / f"part-{part}.parquet")
    pq.write_table(pa.concat_tables([table.slice(90), table.slice(20, 10)]), folder / "part-3.parquet")
    whole = (folder / "part-1.parquet").read_bytes()
    (folder / "part-1.parquet").write_bytes(whole[:200])
    return {
        "name": "faulty",
        "stream": {
            "path": str(folder),
            "every": "16h",
            "predict_at": "at",
            "label_at": "known",
            "key": "id",
            "key_window": "30d",
            "settle": "0s",
        },
        "features": {
            "label": "late",
            "numeric": ["x"],
            "categorical": ["carrier"],
            "classes": [0, 1],
            "buckets": 16,
            "on_bad_row": "quarantine",
            "rate": [{"by": ["carrier"], "window": "6h"}],
        },
        "model": {"hidden": [4]},
        "learner": {"objective": "binary", "batch_size": 10},
    }
