"""Records: what goes in comes out, bit for bit."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from federated._records import pack, payload, tell, told, unpack

pytestmark = pytest.mark.flower

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    raw = bytearray(draw(st.binary(min_size=size, max_size=size)))  # any bits at all: NaNs, infinities, -0.0
    if not size:
        return torch.empty(shape, dtype=dtype)
    tensor = torch.frombuffer(raw, dtype=torch.uint8)
    return (tensor % 2).bool().reshape(shape) if dtype is torch.bool else tensor.view(dtype).reshape(shape)


def same_bits(one: Tensor, other: Tensor) -> bool:
    def raw(tensor: Tensor) -> bytes:
        return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return one.dtype == other.dtype and one.shape == other.shape and raw(one) == raw(other)


def crossed(record: ArrayRecord) -> ArrayRecord:
    """The record as another process gets it: through pickle, with its buffers beside it."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(record, protocol=5, buffer_callback=buffers.append)
    found: ArrayRecord = pickle.loads(data, buffers=[memoryview(buffer).toreadonly() for buffer in buffers])
    return found


@given(st.dictionaries(st.text(max_size=8), tensors(), max_size=6), st.booleans())
def test_tensors_of_any_dtype_and_shape_come_back_bit_for_bit(weights: dict[str, Tensor], copy: bool) -> None:
    for record in (pack(weights), crossed(pack(weights))):
        found = unpack(record, copy=copy)
        assert list(found) == list(weights)
        assert all(same_bits(found[name], weights[name]) for name in weights)


def test_views_and_strided_tensors_travel_as_their_values() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    found = unpack(pack({"t": base.t(), "part": base[1:, ::2], "shown": base[:1].expand(3, 4)}))
    assert torch.equal(found["t"], base.t())
    assert torch.equal(found["part"], base[1:, ::2])
    assert torch.equal(found["shown"], base[:1].expand(3, 4))


def test_a_record_is_a_snapshot_and_so_is_what_is_unpacked_from_it() -> None:
    weight = torch.zeros(3)
    record = pack({"w": weight})
    weight += 1
    first = unpack(record)["w"]
    first += 5
    assert unpack(record)["w"].tolist() == [0, 0, 0]


def test_buffers_leave_the_pickle_so_that_an_object_store_need_not_copy_them() -> None:
    record = pack({"w": torch.zeros(100_000)})
    assert len(pickle.dumps(record, protocol=5, buffer_callback=lambda buffer: None)) < 2_000


def test_nested_state_comes_back_as_it_was() -> None:
    state = {"rows": torch.tensor([5, 6]), "statistics": {"auc": np.array([1.5, 2.0])}, "losses": {}, "name": None}
    found = told(tell(state))
    assert found["rows"].tolist() == [5, 6]
    assert found["statistics"]["auc"].tolist() == [1.5, 2.0]
    assert found["losses"] == {}
    assert found["name"] is None


@pytest.mark.parametrize("size", [0, 1000])
def test_the_payload_counts_what_travels(size: int) -> None:
    content = RecordDict({"w": pack({"w": torch.zeros(size)})})
    assert size * 4 <= payload(content) <= size * 4 + 200
