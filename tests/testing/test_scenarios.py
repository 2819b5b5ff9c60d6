"""Streams for studying forgetting and drift: every row comes once, where its scenario says."""

from __future__ import annotations

import pytest
import torch

from incr_core.batch import Batch, cat
from incr_core.errors import StreamError
from incr_core.testing import class_incremental, permuted
from incr_core.testing._scenarios import blurry, drifting, rotated


def test_scenarios_keep_every_row_once() -> None:
    every = Batch(torch.arange(80.0).reshape(20, 4), torch.arange(20) % 4)
    for parts in (class_incremental(every, 2), blurry(every, 2, blur=0.5)):
        found = torch.cat([part.inputs[:, 0] for part in parts if isinstance(part.inputs, torch.Tensor)])
        assert sorted(found.tolist()) == [4.0 * place for place in range(20)]
    again = [permuted(every, 3, seed=1)[2].inputs for _ in range(2)]
    assert torch.equal(again[0], again[1])  # type: ignore[arg-type]
    assert len(rotated(every, 3)) == 3


def concepts(*sizes: int) -> list[Batch]:
    """Rows that are numbered through; their label is their concept."""
    numbers = torch.split(torch.arange(float(sum(sizes)))[:, None], list(sizes))
    return [Batch(rows, torch.full((len(rows),), concept)) for concept, rows in enumerate(numbers)]


def test_an_abrupt_drift_is_where_the_rows_before_it_end() -> None:
    parts = drifting(concepts(70, 30, 50), every=40)
    assert [len(part) for part in parts] == [40, 40, 40, 30]
    stream = cat(parts)
    assert stream.task is not None
    assert stream.inputs.flatten().tolist() == list(range(150))  # type: ignore[union-attr]
    assert stream.task.tolist() == [0] * 70 + [1] * 30 + [2] * 50


def test_a_gradual_drift_follows_the_sigmoid() -> None:
    """Of n rows around t, n p(t) are of the new concept, within five standard deviations of a binomial."""
    width, half, n = 20_000, 50_000, 1_000
    task = cat(drifting(concepts(half, half, half), every=1_000, width=width)).task
    assert task is not None
    for drift in (1, 2):
        new = torch.split((task >= drift).double(), n)
        t = torch.arange(n // 2, len(task), n, dtype=torch.float64)
        p = torch.sigmoid(4 * (t - drift * half) / width)
        share = torch.stack([part.mean() for part in new])
        # And what the sigmoid, whose slope is at most 1 / width, may change over the n rows themselves.
        bound = 5 * (p * (1 - p) / n).sqrt() + n / (2 * width)
        assert bool(((share - p).abs() <= bound).all()), (share - p).abs().max()
    assert int((task[: half - 2 * width] > 0).sum()) < half * 1e-3


def test_a_gradual_drift_takes_every_row_once_in_the_order_of_its_concept() -> None:
    given = concepts(300, 500)
    parts = drifting(given, every=100, width=200, seed=3)
    stream = cat(parts)
    assert stream.task is not None
    for concept, rows in enumerate(given):
        of = stream.take((stream.task == concept).nonzero().flatten())
        assert torch.equal(of.inputs, rows.inputs)  # type: ignore[arg-type]
        assert torch.equal(of.targets, rows.targets)
    changes = int((stream.task.diff() != 0).sum())
    assert changes > 10, "a gradual drift goes to and fro"


def test_equal_seeds_give_equal_streams_and_others_do_not() -> None:
    one, same, other = (cat(drifting(concepts(300, 300), 50, width=300, seed=seed)).task for seed in (1, 1, 2))
    assert one is not None
    assert same is not None
    assert other is not None
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("sizes", "every", "width", "message"),
    [
        (
            (5,),
            1,
            0,
            r"drifting.concepts: expected at least 2, each with rows, got 1 of \[5\] rows; give the rows",
        ),
        ((5, 0), 1, 0, r"drifting.concepts: .*, got 2 of \[5, 0\] rows"),
        ((5, 5), 0, 0, "drifting.every: expected at least 1 row an increment, got 0; give each at least 1"),
        (
            (5, 4),
            1,
            4.5,
            "drifting.width: expected 0, for an abrupt .* up to the 4 rows .*, got 4.5; make it narrower",
        ),
        ((5, 4), 1, -1, "drifting.width: .*, got -1"),
    ],
)
def test_what_makes_no_drift_is_refused(sizes: tuple[int, ...], every: int, width: float, message: str) -> None:
    with pytest.raises(StreamError, match=message):
        drifting(concepts(*sizes), every, width=width)


def test_concepts_of_two_forms_are_refused() -> None:
    one, other = Batch(torch.zeros(3, 2), torch.zeros(3)), Batch(torch.zeros(3, 4), torch.zeros(3))
    with pytest.raises(StreamError, match=r"rows of one form, .*\(2,\).*, got .*\(4,\).* in concept 1; .* alike"):
        drifting([one, other], every=1)
