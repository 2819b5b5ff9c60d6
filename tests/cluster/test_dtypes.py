"""Every type of tensor that merges does so over the wire with the bits that it has in one process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]

from cluster.exchange import ReplicaExchange
from cluster.parcel import open_parcel, parcel
from incr_core.storage import model_sha256
from incr_core.update import Update, Weights, mean
from tests.support.every_dtype import COMPLEX, FLOATS, MERGEABLE, of_two

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")

RULES = {str(dtype): "mean" if dtype in (*FLOATS, *COMPLEX) else "max" for dtype in MERGEABLE}


def test_two_replicas_merge_all_types_as_one_process_does() -> None:
    pairs = {str(dtype): of_two(dtype) for dtype in MERGEABLE}
    updates = [Update({name: pair[which] for name, pair in pairs.items()}, rows) for which, rows in ((0, 1), (1, 3))]
    store = HashStore()

    def one(rank: int) -> Weights:
        group = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=20))
        return ReplicaExchange(group, rank, 2).mean(updates[rank], {}, RULES)[0]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(one, range(2)))
    expected = model_sha256(mean(updates, {}, RULES))
    assert model_sha256({name: pair[2] for name, pair in pairs.items()}) == expected
    assert [model_sha256(weights) for weights in found] == [expected, expected]


@pytest.mark.parametrize("dtype", MERGEABLE, ids=str)
def test_a_parcel_keeps_every_bit(dtype: torch.dtype) -> None:
    value, other, _ = of_two(dtype)
    weights = {"lonely": value[0], "turned": torch.stack([value, other]).t(), "none": value[:0]}
    if dtype.is_complex:
        weights["conjugate"] = value.conj()
    assert model_sha256(open_parcel(parcel(weights))) == model_sha256(weights)
