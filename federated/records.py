"""Tensors and nested state to Flower records and back, bit for bit.

    tensors --pack--> ArrayRecord: one flat buffer per dtype, and their layout as JSON
    state   --tell--> RecordDict:  its tensors as such a record, its structure as JSON

One buffer per dtype instead of one per tensor, because a buffer crosses Ray's object store without being copied, and a
hundred small ones cost more than one large. Integers and bfloat16 travel as they are: nothing becomes a float.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from federated.flower_privates import flat_array
from incr_core.storage import packing

__all__ = ["pack", "payload", "tell", "told", "unpack"]

LAYOUT = "layout"
"""The entry of a packed record that says which tensors lie in its buffers; no dtype has this name."""


def pack(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Copy tensors of any shapes and dtypes into one flat buffer per dtype, in the order given.

    >>> record = pack({"weight": torch.ones(2, 2), "bias": torch.zeros(2), "seen": torch.tensor(7)})
    >>> list(record)
    ['layout', 'float32', 'int64']
    >>> unpack(record)["seen"]
    tensor(7)
    """
    layout = [[name, _dtype(tensor), list(tensor.shape)] for name, tensor in tensors.items()]
    record = ArrayRecord()
    record[LAYOUT] = flat_array("uint8", np.frombuffer(json.dumps(layout).encode(), np.uint8))
    alike: dict[str, list[Tensor]] = {}
    for tensor in tensors.values():
        alike.setdefault(_dtype(tensor), []).append(tensor.detach().reshape(-1).cpu())
    for dtype, parts in alike.items():
        record[dtype] = flat_array(dtype, torch.cat(parts).view(torch.uint8).numpy())
    return record


def unpack(record: ArrayRecord, *, copy: bool = True) -> dict[str, Tensor]:
    """The tensors of a packed record, in the order they were given.

    copy: False gives views of the record's own memory, which may be read-only and shared with other processes:
    only for who reads them and lets them go.
    """
    buffers = {
        dtype: _tensor(array.data, getattr(torch, dtype), copy) for dtype, array in record.items() if dtype != LAYOUT
    }
    read = dict.fromkeys(buffers, 0)
    tensors: dict[str, Tensor] = {}
    for name, dtype, shape in json.loads(bytes(record[LAYOUT].data)):
        start, count = read[dtype], int(np.prod(shape, dtype=np.int64))
        tensors[name] = buffers[dtype][start : start + count].view(shape)
        read[dtype] = start + count
    return tensors


def tell(state: Any) -> RecordDict:
    """Any nested state that `packing.pack` takes, as records.

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

    >>> payload(RecordDict({"state": pack({"w": torch.ones(10)})})) >= 40
    True
    """
    return sum(record.count_bytes() for record in content.array_records.values())


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _tensor(data: Any, dtype: torch.dtype, copy: bool) -> Tensor:
    if len(data) == 0:
        return torch.empty(0, dtype=dtype)
    buffer = np.frombuffer(data, np.uint8)
    if copy:
        return torch.from_numpy(buffer.copy()).view(dtype)
    with warnings.catch_warnings():
        # Torch has no read-only tensors and says so; who asks for no copy has promised to read only.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(buffer).view(dtype)
