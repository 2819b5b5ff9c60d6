"""Reports of an increment come through a process boundary as they were, and add to the same bits there."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from incr_core import metrics
from incr_core.data.timeline import Tick
from incr_core.rounds import Arrival, total_observed


def report(number: int) -> Arrival:
    """One with arrays of all kinds: of one number, of none, of two dimensions, thin ones, and a type of torch's own."""
    draw = torch.Generator().manual_seed(number)
    scores = np.zeros((3, 2, 2048))
    scores[0, number % 2, 100 + number] = 0.1 * number
    return Arrival(
        Tick(7, "2013-02-01", time=5),
        torch.arange(number, number + 3),
        arriving=4,
        statistics={"sums": np.array([0.1 * number, 1.0]), "scores": scores, "rows": np.array(number)},
        observed={
            "count": torch.tensor(number),
            "one": torch.rand(1, generator=draw),
            "none": torch.zeros(0),
            "spread": torch.rand(3, 2, generator=draw, dtype=torch.float64),
            "half": torch.rand(2, generator=draw).bfloat16(),
        },
        probed=[torch.rand(2, 2, 1, generator=draw)],
        duplicates=torch.arange(number),
    )


@pytest.mark.parametrize("count", [1, 2, 37])
def test_what_is_sent_adds_as_what_is_at_hand(count: int) -> None:
    here = [report(number) for number in range(count)]
    sent = [pickle.loads(pickle.dumps(one, 5)) for one in here]
    for one, other in zip(here, sent, strict=True):
        assert other.tick == one.tick
        assert torch.equal(other.rows, one.rows)
        assert torch.equal(other.duplicates, one.duplicates)
        assert torch.equal(other.probed[0], one.probed[0])
        assert (other.arriving, other.labelled) == (4, 3)
    expected: dict[str, Tensor] = {}
    for one in here:  # one behind the other, whatever is done at once
        for name, value in one.observed.items():
            assert isinstance(value, Tensor)
            expected[name] = expected[name] + value if name in expected else value
    for found in (total_observed(here), total_observed(sent)):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype
            assert found[name].shape == value.shape
            assert torch.equal(found[name], value), name
    at_hand, told = (metrics.total(one.statistics for one in several) for several in (here, sent))
    assert at_hand.keys() == told.keys()
    for name, array in at_hand.items():
        np.testing.assert_array_equal(told[name], array)
        assert told[name].dtype == array.dtype


def test_rows_that_were_sent_may_be_changed() -> None:
    sent = pickle.loads(pickle.dumps(report(3), 5))
    sent.rows += 1
    assert sent.rows.tolist() == [4, 5, 6]
