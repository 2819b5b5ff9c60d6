"""The noisy mean of clipped updates: what it is without noise, and its noise."""

from __future__ import annotations

import math

import pytest
import torch

from incr_core.privacy import AdaptiveClip
from incr_core.rounds import PrivateMean
from incr_core.update import Update

RULES = {"w": "mean", "seen": "max", "sums": "sum"}
ANCHOR = {"w": torch.ones(50_000), "seen": torch.tensor(3), "sums": torch.zeros(3, 2)}


def moved_by(value: float, rows: int = 5) -> Update:
    weights = {"w": ANCHOR["w"].clone(), "seen": torch.tensor(9), "sums": torch.ones(3, 2)}
    weights["w"][0] += value
    return Update(weights, rows)


def test_each_counts_alike_is_clipped_and_is_divided_by_how_many_are_expected() -> None:
    mean = PrivateMean(0.0, 1.0, b"s")
    mean.clients = 4
    found = mean.merge([moved_by(0.5), moved_by(-30.0, rows=900), moved_by(7.0, rows=0)], ANCHOR, RULES)
    assert float(found["w"][0]) == pytest.approx(1 + (0.5 - 1.0) / 4)
    assert torch.equal(found["w"][1:], ANCHOR["w"][1:])
    assert found["seen"] is ANCHOR["seen"]
    assert found["sums"] is ANCHOR["sums"]
    assert mean.shares([moved_by(1.0), moved_by(1.0, rows=0)]) == [0.25, 0.0]


@pytest.mark.parametrize("clip", [0.5, AdaptiveClip(start=0.5, count_noise=1.0)])
def test_the_noise_has_the_standard_deviation_that_was_paid_for(clip: float | AdaptiveClip) -> None:
    mean = PrivateMean(1.5, clip, b"s")
    mean.clients = 10
    more = 1.0 if isinstance(clip, float) else 1.5**-1 * (1.5**-2 - 2.0**-2) ** -0.5
    noise = mean.merge([], ANCHOR, RULES)["w"] - ANCHOR["w"]
    assert float(noise.std()) == pytest.approx(more * 1.5 * 0.5 / 10, rel=0.02)


def test_other_sums_have_other_noise_and_the_same_round_the_same() -> None:
    found = []
    for value in (0.1, 0.1, 0.2):
        mean = PrivateMean(1.0, 1.0, b"s")
        mean.load_state_dict({"merged": 7})
        found.append(mean.merge([moved_by(value)], ANCHOR, RULES)["w"])
    assert torch.equal(found[0], found[1])
    assert float((found[0] - found[2])[1:].std()) == pytest.approx(math.sqrt(2), rel=0.03)


def test_where_the_clip_is_goes_on_with_the_state() -> None:
    mean = PrivateMean(0.5, AdaptiveClip(start=0.1, count_noise=1.0), b"s")
    mean.merge([moved_by(3.0)], ANCHOR, RULES)
    assert mean.clip != 0.1
    again = PrivateMean(0.5, AdaptiveClip(start=0.1, count_noise=1.0), b"s")
    again.load_state_dict(mean.state_dict())
    one, other = (each.merge([moved_by(3.0)], ANCHOR, RULES)["w"] for each in (mean, again))
    assert torch.equal(one, other)
