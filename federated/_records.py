"""Conversion of tensors and nested state to Flower records and back, bit for bit.

    `pack`: tensors -> ArrayRecord, with one flat buffer, and its layout as JSON
    `tell`: state -> RecordDict, with its tensors as such a record, and its structure as JSON

All tensors share one buffer, because a buffer crosses Ray's object store without a copy, and a hundred small ones cost
more than one large. Integers and bfloat16 keep their types.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from federated._flower_privates import flat_array
from incr_core.metrics import Packed, Told, packed, unpacked
from incr_core.numerics import FlatLayout, FlatTensors
from incr_core.storage import packing

__all__ = ["filled", "pack", "payload", "tell", "thinned", "told", "unpack"]


def pack(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Copy tensors of any shapes and dtypes into one record, in the order given.

    Example:
        >>> import torch
        >>> record = pack({"weight": torch.ones(2, 2), "bias": torch.zeros(2), "seen": torch.tensor(7)})
        >>> list(record)
        ['layout', 'tensors']
        >>> unpack(record)["seen"]
        tensor(7)
    """
    flat = FlatTensors.of(tensors)
    record = ArrayRecord()
    record["layout"] = flat_array(np.frombuffer(json.dumps(flat.layout.document()).encode(), np.uint8))
    record["tensors"] = flat_array(flat.buffer)
    return record


def unpack(record: ArrayRecord, *, copy: bool = True) -> dict[str, Tensor]:
    """Return the tensors of a packed record, in the original order.

    Args:
        record: The record.
        copy: False returns views of the record's memory, as `FlatTensors.tensors` does.
    """
    layout = FlatLayout.from_document(json.loads(bytes(record["layout"].data)))
    return FlatTensors(layout, np.frombuffer(record["tensors"].data, np.uint8)).tensors(copy=copy)


def tell(state: Any) -> RecordDict:
    """Return nested state of the types of `packing.pack` as records.

    Example:
        >>> import torch
        >>> told(tell({"rows": torch.tensor([3, 4]), "seconds": 0.5, "bad": []}))
        {'rows': tensor([3, 4]), 'seconds': 0.5, 'bad': []}
    """
    tensors, structure = packing.pack(state)
    return RecordDict({"state": pack(tensors), "structure": ConfigRecord({"json": json.dumps(structure)})})


def told(content: RecordDict, *, copy: bool = True) -> Any:
    """Return the state that was given to `tell`; see `unpack` for `copy`."""
    structure = json.loads(str(content.config_records["structure"]["json"]))
    return packing.unpack(unpack(content.array_records["state"], copy=copy), structure)


def payload(content: RecordDict) -> int:
    """Return the number of bytes of the tensors in the records.

    Example:
        >>> import torch
        >>> payload(RecordDict({"state": pack({"w": torch.ones(10)})})) >= 40
        True
    """
    return sum(record.count_bytes() for record in content.array_records.values())


def thinned(sums: Packed) -> dict[str, Any]:
    """Return statistics in a compact form for `tell` (`metrics.packed`): a histogram of few rows is mostly 0.

    Example:
        >>> told_of = thinned({"scores": np.eye(1, 8192)})
        >>> len(told_of["scores"]["values"]), unpacked(filled(told_of)["scores"]).shape
        (1, (1, 8192))
    """
    return {name: _told_of(value) for name, value in packed(sums).items()}


def _told_of(value: Told) -> Any:
    dtype, shape, numbers, places = value
    if places is None:
        return unpacked(value).copy()
    at = np.frombuffer(places, np.int64).copy()
    return {"shape": list(shape), "at": at, "values": np.frombuffer(numbers, dtype).copy()}


def filled(sums: Mapping[str, Any]) -> Packed:
    """Return the statistics that were given to `thinned`, packed as they were sent."""

    def sent(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        values, at = value["values"], value["at"].astype(np.int64)
        return values.dtype.str, tuple(value["shape"]), values.tobytes(), at.tobytes()

    return {name: sent(value) for name, value in sums.items()}
