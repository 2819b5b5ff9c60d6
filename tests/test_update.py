"""The mean of updates: closed forms, and the exact arithmetic that every engine repeats."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from incr_core.models import Moments
from incr_core.models._entries import merge_rules
from incr_core.update import BLOCK, Update, mean, merge, merge_shared, shares


def update(rows: int, **weights: Tensor) -> Update:
    return Update(weights, rows)


def test_the_mean_is_weighted_by_rows() -> None:
    updates = [update(1, w=torch.tensor([0.0, 8.0])), update(3, w=torch.tensor([4.0, 0.0]))]
    assert mean(updates, {}, {})["w"].tolist() == [3.0, 2.0]


def test_products_are_rounded_and_added_in_order() -> None:
    values = [torch.randn(1000, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    rows = [3, 5, 7, 11]
    expected = values[0]
    for value, count in zip(values[1:], rows[1:], strict=True):
        expected = expected + (value - values[0]) * (count / 26)
    updates = [update(count, w=value) for value, count in zip(values, rows, strict=True)]
    assert torch.equal(mean(updates, {}, {})["w"], expected)
    assert not torch.equal(mean(updates[::-1], {}, {})["w"], expected)  # so the order is part of the law


@pytest.mark.parametrize("rule", ["mean", "sum", "max"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2], ids=str)
def test_a_large_entry_merges_as_its_parts_do(rule: str, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    *values, anchor = (torch.randn(2 * BLOCK + 10, generator=draw).to(dtype) for _ in range(4))
    p = shares([3, 0, 5])
    parts = zip(*(torch.split(one, 1000) for one in (*values, anchor)), strict=True)
    expected = torch.cat([merge(part[:3], p, rule, part[3]).float() for part in parts])
    large = torch.stack([*values, anchor]).view(4, 2, -1).transpose(1, 2)  # several pieces of memory
    in_pieces = merge([*large[:3]], p, rule, large[3]).transpose(0, 1).reshape(-1)
    for found in (merge(values, p, rule, anchor), in_pieces):
        assert torch.equal(found.float(), expected)
    for out in (torch.empty_like(anchor), *(value for value in values)):
        before = [value.clone() for value in values]
        assert merge(values, p, rule, anchor, out) is out
        assert torch.equal(out.float(), expected)
        for value, kept in zip(values, before, strict=True):
            value.copy_(kept)


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_what_is_equal_everywhere_stays_to_the_bit(workers: int) -> None:
    same, rows = torch.randn(1000), [3 + worker for worker in range(workers)]
    assert torch.equal(mean([update(count, w=same.clone()) for count in rows], {}, {})["w"], same)
    p = shares(rows)
    assert not torch.equal(sum(same * share for share in p), same)  # type: ignore[arg-type]  # as one might have it


def test_updates_without_rows_are_left_out() -> None:
    one, none, two = update(1, w=torch.ones(3)), update(0, w=torch.full((3,), torch.nan)), update(2, w=torch.zeros(3))
    assert torch.equal(mean([one, none, two], {}, {})["w"], mean([one, two], {}, {})["w"])


def test_an_update_alone_is_itself() -> None:
    one = update(7, w=torch.randn(3), count=torch.tensor(4))
    merged = mean([update(0, w=torch.zeros(3)), one], {}, {})
    assert merged is one.weights


def test_the_mean_of_nothing_is_the_anchor() -> None:
    anchor = {"w": torch.ones(2)}
    assert mean([update(0, w=torch.zeros(2))], anchor, {}) == anchor


def test_updates_are_not_written_to() -> None:
    one, two = torch.ones(3), torch.zeros(3)
    for rule in ("mean", "average", "sum", "max"):
        merge([one, two], [0.5, 0.5], rule, torch.ones(3))
    assert torch.equal(one, torch.ones(3))
    assert torch.equal(two, torch.zeros(3))


def test_sums_add_what_each_added() -> None:
    anchor = torch.tensor([100.0])
    assert merge([anchor + 1, anchor + 2, anchor], [0.2, 0.3, 0.5], "sum", anchor).item() == 103.0
    with pytest.raises(ValueError, match="needs the anchor"):
        merge([anchor], [1.0], "sum", None)


@pytest.mark.parametrize("rule", ["mean", "sum", "max"])
def test_shared_state_where_nobody_learned_stays(rule: str) -> None:
    state = {"0.f": torch.randn(5)}
    found = merge_shared([state, state], [0, 0], {"0.f": rule}, state)
    assert torch.equal(found["0.f"], state["0.f"])


def test_shared_state_adds_to_what_all_had() -> None:
    anchor = {"0.n": torch.tensor([100])}
    found = merge_shared([{"0.n": torch.tensor([103])}, {"0.n": torch.tensor([104])}], [9, 1], {"0.n": "sum"}, anchor)
    assert found["0.n"].tolist() == [107]


def test_shared_state_of_workers_without_rows_does_not_count() -> None:
    states = [{"0.f": torch.tensor([torch.nan])}, {"0.f": torch.ones(1)}, {"0.f": torch.zeros(1)}]
    assert merge_shared(states, [0, 1, 3], {"0.f": "mean"}, {})["0.f"].tolist() == [0.25]


def test_max_of_counters_and_masks() -> None:
    assert merge([torch.tensor([1, 5]), torch.tensor([3, 2])], [0.5, 0.5], "max", None).tolist() == [3, 5]
    masks = [torch.tensor([True, False]), torch.tensor([False, False])]
    assert merge(masks, [0.5, 0.5], "max", None).tolist() == [True, False]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the rule mean, average, sum or max, got 'avg'"):
        merge([torch.ones(1)], [1.0], "avg", None)


def test_shares() -> None:
    assert shares([2, 0, 6]) == [0.25, 0.0, 0.75]


def test_rules_are_told_for_every_entry_of_a_state() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ModuleDict({"moments": Moments(2)}))
    rules = merge_rules(model)
    assert rules.keys() == model.state_dict().keys()
    assert rules["0.weight"] == rules["1.bias"] == "mean"
    assert rules["1.running_mean"] == "average"
    assert rules["1.num_batches_tracked"] == "max"
    assert rules["2.moments.sums"] == "sum"
