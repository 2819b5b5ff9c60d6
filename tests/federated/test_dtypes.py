"""Every type of tensor that merges travels in Flower's records, bit for bit."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("flwr.app")

from flwr.app import RecordDict

from federated._records import pack, payload, tell, told, unpack
from incr_core.storage import model_sha256
from tests.support.every_dtype import MERGEABLE, of_two

pytestmark = [
    pytest.mark.flower,
    pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental"),
]


@pytest.mark.parametrize("dtype", MERGEABLE, ids=str)
def test_a_record_keeps_every_bit(dtype: torch.dtype) -> None:
    value, other, _ = of_two(dtype)
    weights = {"lonely": value[0], "turned": torch.stack([value, other]).t(), "none": value[:0], "float": torch.ones(1)}
    if dtype.is_complex:
        weights["conjugate"] = value.conj()
    for copy in (True, False):
        assert model_sha256(unpack(pack(weights), copy=copy)) == model_sha256(weights)
    found = told(tell({"state": weights}))["state"]
    assert model_sha256(found) == model_sha256(weights)
    assert payload(RecordDict({"w": pack(weights)})) >= value.nbytes
