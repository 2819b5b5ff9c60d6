"""Tensors and nested state to Flower records and back, bit for bit.

    tensors --pack--> ArrayRecord: one flat buffer, and its layout as JSON
    state   --tell--> RecordDict:  its tensors as such a record, its structure as JSON

One buffer instead of one per tensor, because a buffer crosses Ray's object store without being copied, and a hundred
small ones cost more than one large. Integers and bfloat16 travel as they are: nothing becomes a float.
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
    """The tensors of a packed record, in the order they were given.

    copy: False gives views of the record's own memory, as `FlatTensors.tensors` does.
    """
    layout = FlatLayout.from_document(json.loads(bytes(record["layout"].data)))
    return FlatTensors(layout, np.frombuffer(record["tensors"].data, np.uint8)).tensors(copy=copy)


def tell(state: Any) -> RecordDict:
    """Any nested state that `packing.pack` takes, as records.

    >>> import torch
    >>> told(tell({"rows": torch.tensor([3, 4]), "seconds": 0.5, "bad": []}))
    {'rows': tensor([3, 4]), 'seconds': 0.5, 'bad': []}
    """
    tensors, structure = packing.pack(state)
    return RecordDict({"state": pack(tensors), "structure": ConfigRecord({"json": json.dumps(structure)})})


def told(content: RecordDict, *, copy: bool = True) -> Any:
    """What `tell` was given; see `unpack` for `copy`."""
    structure = json.loads(str(content.config_records["structure"]["json"]))
    return packing.unpack(unpack(content.array_records["state"], copy=copy), structure)


def payload(content: RecordDict) -> int:
    """Bytes of the tensors that the records hold.

    >>> import torch
    >>> payload(RecordDict({"state": pack({"w": torch.ones(10)})})) >= 40
    True
    """
    return sum(record.count_bytes() for record in content.array_records.values())


def thinned(sums: Packed) -> dict[str, Any]:
    """Statistics as `tell` takes them, in few bytes (`metrics.packed`): of few rows a histogram is mostly 0.

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
    """What `thinned` was given, packed as it was sent."""

    def sent(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        values, at = value["values"], value["at"].astype(np.int64)
        return values.dtype.str, tuple(value["shape"]), values.tobytes(), at.tobytes()

    return {name: sent(value) for name, value in sums.items()}
