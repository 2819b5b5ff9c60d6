"""A chunk as tensors and JSON, as readers transfer it; what follows from the numbers of its rows is not sent."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from incr_core.batch import Batch
from incr_core.data._row_ids import row_ids
from incr_core.data.encoding import BadRow
from incr_core.data.rates import Questions
from incr_core.data.timeline._chunk import Chunk
from incr_core.data.timeline._turns import Transfer

__all__ = ["pack_chunk", "unpack_chunk"]

INPUTS = "inputs/"


def pack_chunk(chunk: Chunk) -> Transfer:
    """Pack a chunk of one fragment from which no duplicates have been removed yet."""
    batch, questions = chunk.batch, chunk.questions
    inputs = batch.inputs if isinstance(batch.inputs, dict) else {"": batch.inputs}
    found = {
        **{f"{INPUTS}{name}": value for name, value in inputs.items()},
        "targets": batch.targets,
        "weights": batch.weights,
        "task": batch.task,
        "slices": batch.slices,
    }
    tensors = {name: value for name, value in found.items() if value is not None}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    if chunk.times.any() or chunk.known.any():
        arrays |= {"times": chunk.times, "known": chunk.known}
    if len(chunk.good) < len(chunk.times):
        arrays["good"] = chunk.good
    if len(questions.keys):
        asked = {"keys": questions.keys, "outcomes": questions.outcomes, "known": questions.known}
        arrays |= {f"questions/{name}": value for name, value in asked.items()}
    if chunk.keys is not None:
        arrays["keys"] = chunk.keys
    return Transfer(
        tensors | {name: torch.from_numpy(value) for name, value in arrays.items()},
        {
            "rows": len(chunk.times),
            "bad": [asdict(row) for row in chunk.bad],
            "held": dict(chunk.held),
            "zoned": dict(chunk.zoned),
        },
    )


def unpack_chunk(handed: Transfer, file: int, start: int) -> Chunk:
    """Restore the chunk: rows of a file, with its number in their ids, from offset `start`.

    Example:
        >>> batch = Batch(torch.ones(2, 1), torch.zeros(2), row_ids=row_ids(3, 5, 7))
        >>> nothing, places = np.zeros(2, dtype=np.int64), np.arange(2)
        >>> none = Questions(*(np.zeros((0, 2), dtype) for dtype in (np.int64, np.float64, np.int64)))
        >>> ids = row_ids(3, 5, 7)
        >>> chunk = Chunk(nothing, nothing, ids, places, batch, none, [], places[:0], places[:1], places[1:])
        >>> unpack_chunk(pack_chunk(chunk), 3, 5).batch.row_ids - 3 * 2**40
        tensor([5, 6])
    """
    tensors, told, rows = handed.tensors, handed.told, handed.told["rows"]
    arrays = {name: value.numpy() for name, value in tensors.items()}
    inputs = {name[len(INPUTS) :]: value for name, value in tensors.items() if name.startswith(INPUTS)}
    ids = row_ids(file, start, start + rows)
    good = arrays.get("good", np.arange(rows))
    bad = [BadRow(**row) for row in told["bad"]]
    batch = Batch(
        inputs.get("", {**inputs}),
        tensors["targets"],
        tensors.get("weights"),
        tensors.get("task"),
        ids if len(good) == rows else ids[torch.from_numpy(good)],
        slices=tensors.get("slices"),
    )
    asked = [
        arrays.get(f"questions/{name}", np.zeros((0, len(good)), dtype))
        for name, dtype in (("keys", np.int64), ("outcomes", np.float64), ("known", np.int64))
    ]
    return Chunk(
        arrays.get("times", np.zeros(rows, dtype=np.int64)),
        arrays.get("known", np.zeros(rows, dtype=np.int64)),
        ids,
        good,
        batch,
        Questions(*asked),
        bad,
        np.array([row.offset - start for row in bad], dtype=np.int64),
        np.zeros(min(rows, 1), dtype=np.int64),
        np.array([rows] if rows else [], dtype=np.int64),
        arrays.get("keys"),
        held=told["held"],
        zoned=told["zoned"],
    )
