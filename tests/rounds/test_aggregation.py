"""What a few hostile updates can do to a merge: nothing much, where the aggregation is robust."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from incr_core.errors import ArgumentError
from incr_core.rounds import AGGREGATIONS, Aggregation, outsized
from incr_core.rounds._aggregation import Krum, Median, TrimmedMean, distances
from incr_core.update import Update, mean

RULES = {"w": "mean", "running": "average", "seen": "sum", "flags": "max", "phase": "mean"}


def aggregation(name: str, **arguments: Any) -> Aggregation:
    needed = {"lr": 0.1} if name == "qfedavg" else {}
    return AGGREGATIONS[name](**needed, **arguments)


def random_updates(count: int, seed: int = 0) -> tuple[list[Update], dict[str, Tensor]]:
    """Updates of many kinds of entries, around an anchor."""
    generator = torch.Generator().manual_seed(seed)
    anchor = {
        "w": torch.randn(3, 5, generator=generator),
        "running": torch.randn(4, generator=generator, dtype=torch.float64),
        "seen": torch.tensor(100),
        "flags": torch.tensor([False, True, False]),
        "phase": torch.randn(2, generator=generator, dtype=torch.complex64),
    }
    updates = []
    for number in range(count):
        weights = {
            name: value + 0.1 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
            for name, value in anchor.items()
            if value.is_floating_point() or value.is_complex()
        }
        weights |= {"seen": torch.tensor(100 + 10 * (number + 1)), "flags": torch.tensor([False, True, number == 0])}
        updates.append(Update({name: weights[name] for name in anchor}, num_rows=10 * (number + 1)))
    return updates, anchor


def test_the_trimmed_mean_and_the_median_are_those_of_numpy() -> None:
    updates, anchor = random_updates(10)
    values = np.stack([update.weights["w"].double().numpy() for update in updates])
    trimmed = TrimmedMean(0.2).merge(updates, anchor, RULES)
    assert np.allclose(trimmed["w"], np.sort(values, 0)[2:8].mean(0), atol=1e-6)
    middle = Median().merge(updates, anchor, RULES)
    assert np.allclose(middle["w"], np.median(values, 0), atol=1e-6)
    nine = Median().merge(updates[:9], anchor, RULES)
    assert np.allclose(nine["w"], np.median(values[:9], 0), atol=1e-6)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_every_entry_keeps_its_type_and_shape_and_merges_by_its_rule(name: str) -> None:
    updates, anchor = random_updates(7)
    merged = aggregation(name).merge(updates, anchor, RULES)
    assert merged.keys() == anchor.keys()
    for entry, value in merged.items():
        assert (value.shape, value.dtype) == (anchor[entry].shape, anchor[entry].dtype)
    assert not merged["flags"][0]
    assert merged["flags"][1]


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_what_adds_up_moves_by_as_many_times_the_centre_as_there_are_clients(name: str) -> None:
    updates, anchor = random_updates(7)
    merged = aggregation(name).merge(updates, anchor, RULES)
    assert merged["seen"] == 100 + 7 * median(10 * (number + 1) for number in range(7))


# q-FedAvg's step depends on the losses, of one client alone too.
@pytest.mark.parametrize("name", sorted({*AGGREGATIONS} - {"qfedavg"}))
def test_equal_updates_stay_what_they_are(name: str) -> None:
    [update], anchor = random_updates(1)
    same = [Update(dict(update.weights), rows) for rows in (3, 1, 2, 9, 4)]
    merged = aggregation(name).merge(
        same, anchor, {"w": "mean", "phase": "mean", "running": "average"} | {"seen": "max", "flags": "max"}
    )
    assert all(torch.equal(merged[entry], update.weights[entry]) for entry in anchor)


@pytest.mark.parametrize("name", sorted({*AGGREGATIONS} - {"qfedavg"}))
def test_nobody_and_one_alone(name: str) -> None:
    updates, anchor = random_updates(2)
    rule = aggregation(name)
    assert rule.merge([], anchor, RULES) == anchor
    one = rule.merge(updates[:1], anchor, RULES)
    assert torch.equal(one["w"], updates[0].weights["w"])
    assert one["seen"] == 110
    without = rule.merge([updates[0], Update(updates[1].weights, 0)], anchor, RULES)
    assert torch.equal(without["w"], updates[0].weights["w"])


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "multi_krum"])
def test_two_hostile_updates_of_ten_do_not_reach_the_merge(name: str) -> None:
    """They are sign-flipped and tenfold, and claim nearly all rows."""
    updates, anchor = random_updates(10)
    honest = updates[2:]
    hostile = [
        Update({**update.weights, "w": anchor["w"] - 10 * (update.weights["w"] - anchor["w"])}, 10**6)
        for update in updates[:2]
    ]
    merged = aggregation(name).merge([*hostile, *honest], anchor, RULES)
    values = torch.stack([update.weights["w"] for update in honest])
    assert (merged["w"] >= values.min(0).values - 1e-6).all()
    assert (merged["w"] <= values.max(0).values + 1e-6).all()
    spoiled = mean([*hostile, *honest], anchor, RULES)
    assert not (spoiled["w"] <= values.max(0).values).all()  # what they do to the plain mean


def test_krum_keeps_the_update_with_the_nearest_neighbours() -> None:
    points = [0.0, 1.0, 1.5, 2.5, 9.0]
    updates = [Update({"w": torch.tensor([value])}, num_rows=1) for value in points]
    assert torch.equal(distances(updates, RULES), (torch.tensor([points]).T - torch.tensor([points])).abs().double())
    # n = 5, f = 1: two neighbours each. Scores: 1 + 2.25, 1 + 0.25, 0.25 + 1, 1 + 2.25, ...; the first of equals.
    assert Krum(0.2).kept(updates, RULES) == [1]
    assert Krum(0.2, keep=None).kept(updates, RULES) == [0, 1, 2, 3]
    assert Krum(0.2, keep=2).kept(updates, RULES) == [1, 2]


def test_large_entries_are_merged_in_parts() -> None:
    values = [torch.full((300_001,), value) for value in (1.0, 2.0, 6.0)]
    updates = [Update({"w": value}, num_rows=1) for value in values]
    assert torch.equal(Median().merge(updates, {"w": values[0]}, RULES)["w"], values[1])
    assert distances(updates, RULES)[0, 1] == pytest.approx(300_001**0.5)


@pytest.mark.parametrize("name", ["trimmed_mean", "krum", "multi_krum"])
def test_a_share_that_no_aggregation_survives_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"aggregation.share: expected a number from 0 to below 0.5, got 0.5"):
        aggregation(name, share=0.5)


def test_who_moves_too_far_is_told_and_who_has_more_rows_may_move_farther() -> None:
    anchor = {"w": torch.zeros(4), "running": torch.ones(1)}

    def moved(by: float, rows: int, running: float = 1.1) -> Update:
        return Update({"w": torch.full((4,), by / 2), "running": torch.tensor([running])}, rows)

    usual = [moved(1.0, 100), moved(-1.1, 120), moved(0.9, 90), moved(1.0, 100)]
    assert outsized(usual, anchor, RULES) == {}
    assert list(outsized([*usual, moved(-10.0, 100)], anchor, RULES)) == [4]
    assert outsized([*usual, moved(-10.0, 1000)], anchor, RULES) == {}  # ten times the steps
    assert list(outsized([*usual, moved(0.1, 100, running=1e9)], anchor, RULES)) == [4]
    assert outsized([moved(1.0, 100), moved(-10.0, 100)], anchor, RULES) == {}  # nobody can tell
    assert outsized([*usual, moved(-10.0, 0)], anchor, RULES) == {}  # it is not in the mean
    infinite = outsized([*usual, moved(float("inf"), 100)], anchor, RULES)
    assert list(infinite) == [4]
