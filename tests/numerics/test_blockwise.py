"""Rounding by blocks: how far off a number may be, and what is not rounded at all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from incr_core.numerics import Blockwise
from incr_core.numerics._blockwise import BLOCK, CHUNK

CODES = [torch.int8, torch.float16]


def through(values: Tensor, code: torch.dtype) -> Tensor:
    coding = Blockwise(code)
    wire = torch.full((coding.nbytes(len(values)),), 255, dtype=torch.uint8)
    return coding.decode(coding.encode(values, wire), torch.empty_like(values))


def drawn(count: int, seed: int, spread: float = 3.0) -> Tensor:
    """Numbers of very different sizes."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=draw) * 10 ** (spread * torch.randn(count, generator=draw))


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, CHUNK, 2 * CHUNK + 3 * BLOCK + 7])
def test_an_error_is_within_its_bound(count: int, code: torch.dtype) -> None:
    values = drawn(count, seed=count)
    for own, rounded in zip(torch.split(values, BLOCK), torch.split(through(values, code), BLOCK), strict=True):
        largest, error = own.abs().max(), (own - rounded).abs()
        bound = largest / 254 if code is torch.int8 else torch.maximum(own.abs() / 2048, largest / 2**25)
        assert (error <= bound * (1 + 1e-5)).all()
        assert torch.isclose(rounded[own.abs().argmax()], own[own.abs().argmax()], rtol=1e-6), "the largest is exact"


def test_by_hand() -> None:
    assert through(torch.tensor([254.0, 3.1, -2.9, 0.9, 0.0]), torch.int8).tolist() == [254.0, 4.0, -2.0, 0.0, 0.0]
    assert through(torch.tensor([1.0, 1 / 3, 2.0**-24, 2.0**-26]), torch.float16).tolist() == [
        1.0,
        1365 / 4096,
        2.0**-24,
        0.0,
    ]


@given(st.integers(1, 700), st.sampled_from(CODES))
def test_a_block_tells_nothing_to_another(count: int, code: torch.dtype) -> None:
    values = drawn(count, seed=1)
    assert torch.cat([through(block, code) for block in torch.split(values, BLOCK)]).equal(through(values, code))


@pytest.mark.parametrize("code", CODES)
def test_zero_stays_zero_beside_what_is_large(code: torch.dtype) -> None:
    values = torch.zeros(3 * BLOCK)
    values[BLOCK + 5], values[-1] = 1e30, 1e-35
    rounded = through(values, code)
    assert rounded.nonzero().flatten().tolist() == [BLOCK + 5], "and what is tiny becomes zero"


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_hidden(wrong: float, code: torch.dtype) -> None:
    values = drawn(2 * BLOCK + 9, seed=2)
    values[BLOCK + 3] = wrong
    finite = through(values, code).isfinite()
    assert not finite[BLOCK : 2 * BLOCK].any()
    assert finite[:BLOCK].all()
    assert finite[2 * BLOCK :].all()


def test_bytes_are_a_quarter_and_a_half() -> None:
    assert Blockwise(torch.int8).nbytes(1 << 20) / (4 << 20) == pytest.approx(0.25, rel=0.02)
    assert Blockwise(torch.float16).nbytes(1 << 20) / (4 << 20) == pytest.approx(0.5, rel=0.01)
