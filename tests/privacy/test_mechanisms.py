"""Noise, clips, and the clip that follows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from incr_core.errors import ArgumentError
from incr_core.privacy import AdaptiveClip, SecretNoise, clipped


def test_noise_is_normal_and_uncorrelated() -> None:
    drawn = SecretNoise(b"a secret", b"a purpose").normal(400_001)
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1) < 0.01
    for edge, share in ((1.0, 0.6827), (2.0, 0.9545), (3.0, 0.9973)):
        assert abs((np.abs(drawn) < edge).mean() - share) < 0.003
    half = len(drawn) // 2
    assert abs(np.corrcoef(drawn[:half], drawn[half : 2 * half])[0, 1]) < 0.01
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.01


def test_noise_for_something_else_is_other_noise() -> None:
    drawn = [SecretNoise(*of).normal(1000) for of in ((b"s", b"1"), (b"s", b"2"), (b"t", b"1"))]
    for one in range(3):
        for other in range(one):
            assert abs(np.corrcoef(drawn[one], drawn[other])[0, 1]) < 0.15


def test_a_clip_keeps_directions_and_leaves_out_what_is_not_finite() -> None:
    anchor = {"a": torch.ones(3), "b": torch.ones(2, dtype=torch.bfloat16), "count": torch.tensor(4)}
    rules = {"a": "mean", "b": "mean", "count": "max"}
    weights = {"a": torch.tensor([4.0, 1.0, 1.0]), "b": torch.tensor([1.0, 5.0]).bfloat16(), "count": torch.tensor(9)}
    moved, norm = clipped(weights, anchor, rules, 0.5)
    assert norm == 5.0
    assert moved.keys() == {"a", "b"}
    assert torch.allclose(torch.cat([moved["a"], moved["b"]]), torch.tensor([0.3, 0, 0, 0, 0.4]).double())
    small, _ = clipped(weights, anchor, rules, 6.0)
    assert small["a"].tolist() == [3.0, 0.0, 0.0]
    weights["a"][1] = math.nan
    assert not any(value.any() for value in clipped(weights, anchor, rules, 1.0)[0].values())


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
def test_an_adaptive_clip_comes_to_the_quantile(quantile: float) -> None:
    generator = torch.Generator().manual_seed(0)
    clip, course = AdaptiveClip(quantile), list[float]()
    noise = SecretNoise(b"s", b"p").normal(600)
    for one in noise:
        clip.follow(torch.empty(100).exponential_(generator=generator).tolist(), clients=100, noise=float(one))
        course.append(clip.clip)
    wanted = -math.log(1 - quantile)  # of the exponential distribution
    assert sum(course[300:]) / 300 == pytest.approx(wanted, rel=0.1)


def test_noise_on_the_count_costs_no_more_than_the_step_may() -> None:
    clip = AdaptiveClip(count_noise=3.0)
    update = clip.update_noise(2.0, 100)
    assert update**-2 + (2 * 3.0) ** -2 == pytest.approx(2.0**-2)
    with pytest.raises(ArgumentError, match="expected more than half of noise = 8, got 3"):
        clip.update_noise(8.0, 100)
