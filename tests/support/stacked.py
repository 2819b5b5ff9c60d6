"""Learners that take their steps as one batch, beside the same ones alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from incr_core.batch import Batch
from incr_core.learner import Learner, learn_stacked, why_alone
from incr_core.update import Update, mean

__all__ = ["learned_alike"]


def learned_alike(
    alone: Sequence[Learner],
    stacked: Sequence[Learner],
    *,
    weighted: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> None:
    """Assert that they learn the same, over increments in which moments, and steps taken, differ more and more.

    weighted: whether rows have weights. rtol, atol: how far weights may be apart.
    """
    draw = torch.Generator().manual_seed(1)
    anchor = {name: value.clone() for name, value in alone[0].weights().items()}
    for sizes in ([1, 9, 4, 17], [12, 3, 8, 1], [5, 5, 5, 5]):
        rows = [_some(size, weighted, draw) for size in sizes]
        expected: list[Update] = []
        for one, own in zip(alone, rows, strict=True):
            one.adopt(anchor)
            one.begin(own)
            expected.append(one.advance())
        stacked[0].adopt(anchor)
        for one, own in zip(stacked, rows, strict=True):
            one.begin(own)
        assert why_alone(stacked[0], rows[0]) == ""
        for update, wanted in zip(learn_stacked(stacked, rows, 2, anchor), expected, strict=True):
            assert update.num_rows == wanted.num_rows
            assert update.losses["loss"] == pytest.approx(wanted.losses["loss"], rel=rtol)
            for name, value in wanted.weights.items():
                torch.testing.assert_close(update.weights[name], value, rtol=rtol, atol=atol)
        anchor = {name: value.clone() for name, value in mean(expected, anchor, {}).items()}
    assert [one.context.step for one in stacked] == [one.context.step for one in alone]


def _some(rows: int, weighted: bool, draw: torch.Generator) -> Batch:
    weights = torch.rand(rows, generator=draw) if weighted else None
    return Batch(torch.randn(rows, 4, generator=draw), torch.randint(3, (rows,), generator=draw), weights)
