"""Flat buffers: what goes in comes out, bit for bit, in its order and aligned."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from incr_core.errors import ArgumentError
from incr_core.numerics import FlatLayout, FlatTensors
from incr_core.storage import model_sha256
from tests.support.every_dtype import MERGEABLE, of_two

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


def some(dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors of a type, of all the forms that tensors have, behind one that leaves them at an odd address."""
    value, other, _ = of_two(dtype)
    pair = torch.stack([value, other])
    found = {
        "odd": torch.tensor([True]),
        "lonely": value[0],
        "turned": pair.t(),
        "every other": pair[:, ::2],
        "shown twice": value.expand(2, 3),
        "none": value[:0],
        "no row": pair[:0],
        "pair": pair,
    }
    if dtype.is_complex:
        found["conjugate"] = value.conj()
    if dtype in (torch.complex64, torch.complex128):
        found["negative"] = value.conj().imag
    return found


@pytest.mark.parametrize("dtype", MERGEABLE, ids=str)
def test_tensors_of_every_type_and_form_come_back(dtype: torch.dtype) -> None:
    tensors = some(dtype)
    flat = FlatTensors.of(tensors)
    for copy in (True, False):
        found = flat.tensors(copy=copy)
        assert list(found) == list(tensors)
        assert model_sha256(found) == model_sha256(tensors)
        assert all(value.data_ptr() % 16 == 0 or not value.numel() for value in found.values())
    assert flat.buffer.nbytes <= sum(value.nbytes + 15 for value in tensors.values())


@st.composite
def any_tensor(draw: st.DrawFn) -> Tensor:
    shape, dtype = draw(st.lists(st.integers(0, 4), max_size=3)), draw(st.sampled_from(MERGEABLE))
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    if not size:
        return torch.empty(shape, dtype=dtype)
    raw = torch.frombuffer(bytearray(draw(st.binary(min_size=size, max_size=size))), dtype=torch.uint8)
    return ((raw % 2) if dtype is torch.bool else raw).view(dtype).view(shape)


@given(st.dictionaries(st.text(max_size=5), any_tensor(), max_size=6), st.integers(1, 4))
def test_any_tensors_come_back_through_pickle_and_json(tensors: dict[str, Tensor], spans: int) -> None:
    flat: FlatTensors = pickle.loads(pickle.dumps(FlatTensors.of(tensors), protocol=5))
    again = FlatTensors(FlatLayout.from_document(json.loads(json.dumps(flat.layout.document()))), flat.buffer)
    for found in (flat.tensors(), again.tensors(copy=False)):
        assert list(found) == list(tensors)
        assert [bits(value) for value in found.values()] == [bits(value) for value in tensors.values()]
    # Cut at any multiples of 16 bytes, every element is in one place.
    cut = flat.layout.cut(16 * spans)
    for name, value in tensors.items():
        pieces = [piece for span in cut for piece in span if piece.name == name]
        assert [number for piece in pieces for number in range(piece.first, piece.last)] == list(range(value.numel()))
        assert all(piece.whole == (len(pieces) == 1) for piece in pieces)


def bits(value: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return value.dtype, value.shape, value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def test_what_lay_in_memory_before_is_not_told() -> None:
    flat = FlatTensors.of({"b": torch.tensor(True), "z": torch.ones(1, dtype=torch.complex128)})
    buffer = torch.full((flat.layout.nbytes,), 7, dtype=torch.uint8)
    flat.layout.write(flat.tensors(), buffer)
    assert buffer[1:16].tolist() == [0] * 15
    assert FlatTensors.of(dict(reversed(flat.tensors().items()))).buffer[17:].tolist() == [0] * 15


@pytest.mark.parametrize(
    ("shape", "stride"), [((4, 1), (1, 60)), ((1,), (60,)), ((4,), (2,)), ((2, 2), (1, 2)), ((), ())]
)
def test_tensors_of_any_stride_have_the_bytes_of_their_numbers(shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    """torch calls a tensor contiguous whatever the stride of a dimension of length 1 is."""
    value = torch.arange(100.0)[3:].as_strided(shape, stride)
    content = b"".join(FlatLayout.of({"w": value}).content({"w": value}))
    assert content[: value.nbytes] == value.numpy().tobytes()


def test_a_copy_is_a_copy_and_views_are_views() -> None:
    flat = FlatTensors.of({"w": torch.zeros(3)})
    flat.tensors()["w"].fill_(1)
    assert flat.tensors()["w"].tolist() == [0, 0, 0]
    flat.tensors(copy=False)["w"].fill_(2)
    assert flat.tensors()["w"].tolist() == [2, 2, 2]


def test_views_of_a_buffer_at_an_odd_address_are_aligned() -> None:
    flat = FlatTensors.of({"w": torch.arange(3.0)})
    odd = np.empty(17, np.uint8)[1:]
    odd[:] = flat.buffer
    found = FlatTensors(flat.layout, odd).tensors(copy=False)["w"]
    assert found.tolist() == [0, 1, 2]
    assert found.data_ptr() % 16 == 0


@pytest.mark.parametrize("told", [["w", "load", [2]], ["w", "float99", [2]], ["w", "float32", [-2]]])
def test_a_layout_that_tells_of_no_tensors_is_refused(told: list[object]) -> None:
    with pytest.raises(ArgumentError, match=r"^w: expected a tensor's type and shape, got"):
        FlatLayout.from_document([told])


def test_a_buffer_of_another_size_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^expected 16 bytes of tensors, got 8"):
        FlatTensors(FlatLayout.of({"w": torch.zeros(2)}), np.zeros(8, np.uint8)).tensors()
