"""Every type of tensor that merges does so over the wire with the bits that it has in one process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]

from cluster._exchange import ReplicaExchange
from incr_core.storage import model_sha256
from incr_core.update import Update, Weights, mean
from tests.support.every_dtype import COMPLEX, FLOATS, MERGEABLE, of_two

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")

RULES = {str(dtype): "mean" if dtype in (*FLOATS, *COMPLEX) else "max" for dtype in MERGEABLE}


def test_two_replicas_merge_all_types_as_one_process_does() -> None:
    pairs = {str(dtype): of_two(dtype) for dtype in MERGEABLE}
    updates = [Update({name: pair[which] for name, pair in pairs.items()}, rows) for which, rows in ((0, 1), (1, 3))]
    expected = model_sha256(mean(updates, {}, RULES))
    assert model_sha256({name: pair[2] for name, pair in pairs.items()}) == expected
    store = HashStore()

    def one(rank: int) -> Weights:
        group = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=20))
        return ReplicaExchange(group, rank, 2).mean(updates[rank], {}, RULES)[0]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(one, range(2)))
    assert [model_sha256(weights) for weights in found] == [expected, expected]
