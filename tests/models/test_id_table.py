"""Tables of ids: who gets a row, who loses it, and how rows of several participants merge."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.models import (
    Factorisation,
    IdTable,
    TableShape,
    absorb_ids,
    is_id_count,
    kept_in_id_tables,
    retracted,
)
from incr_core.objectives import Regression
from incr_core.update import mean


def absorbed(table: IdTable, *keys: list[int]) -> Tensor:
    """Let a table take in the keys of one increment, of one participant each; returns the rows that begin again."""
    weights = {f"ids.{name}": value.detach() for name, value in [*table.named_parameters(), *table.named_buffers()]}
    told = torch.cat([table.count(torch.tensor(one, dtype=torch.int64)) for one in keys])
    return absorb_ids(weights, {"ids.admitted": told})["ids.weight"]


def rows(table: IdTable, *keys: int) -> list[int]:
    found: list[int] = table.rows_of(torch.tensor(keys)).tolist()
    return found


def test_an_id_is_used_once_it_was_seen_often_enough_by_all_together() -> None:
    table = IdTable(capacity=4, width=1, after=3)
    absorbed(table, [7, 8], [7])
    assert rows(table, 7, 8) == [0, 0]
    absorbed(table, [8], [7])
    assert rows(table, 7, 8) == [1, 0]
    absorbed(table, [8])
    assert rows(table, 7, 8) == [1, 2]


def test_the_split_of_rows_makes_no_difference() -> None:
    draw = torch.Generator().manual_seed(0)
    one, two = IdTable(capacity=20, width=3, unused=50), IdTable(capacity=20, width=3, unused=50)
    for _ in range(30):
        keys = torch.randint(-40, 40, (30,), generator=draw)
        absorbed(one, keys.tolist())
        shuffled = keys[torch.randperm(30, generator=draw)]
        absorbed(two, shuffled[:4].tolist(), shuffled[4:25].tolist(), [], shuffled[25:].tolist())
    for name, value in one.state_dict().items():
        assert value.equal(two.state_dict()[name]), name
    held = one.keys[one.keys != 0]
    assert len(torch.unique(held)) == len(held) > 10


def test_where_a_table_is_full_the_id_unused_for_longest_loses_its_row() -> None:
    table = IdTable(capacity=2, width=1, plain=0)
    absorbed(table, [5, 6])
    absorbed(table, [5])
    changed = absorbed(table, [9])
    assert rows(table, 5, 6, 9) == [1, 0, 2]
    assert changed.tolist() == [2]
    absorbed(table, [11, 11, 12, 13])  # more new ids than rows: the most frequent
    assert rows(table, 11, 12, 13, 5, 9) in ([1, 2, 0, 0, 0], [2, 1, 0, 0, 0])


def test_ids_that_are_not_used_yet_lose_their_row_first() -> None:
    table = IdTable(capacity=2, width=1, after=2)
    absorbed(table, [5, 5])
    absorbed(table, [6])
    absorbed(table, [7, 7])
    assert rows(table, 5, 7) == [1, 2]


def test_an_id_unused_for_long_loses_its_row_and_begins_again_as_it_began() -> None:
    table = IdTable(capacity=3, width=4, unused=5)
    absorbed(table, [5])
    start = table.weight.detach()[1].clone()
    assert start.abs().sum() > 0
    with torch.no_grad():
        table.weight[1] += 1.0
    absorbed(table, [6] * 4)
    assert rows(table, 5) == [1]
    absorbed(table, [6] * 4)
    assert rows(table, 5) == [0]
    assert table.weight.detach()[1].tolist() == [0.0] * 4
    absorbed(table, [5])
    assert table.weight.detach()[1].equal(start)
    assert int(table.seen[1]) == 1


def test_missing_ids_have_no_row() -> None:
    table = IdTable(capacity=3, width=1)
    absorbed(table, [0, 0, 4])
    assert rows(table, 0, 4) == [0, 1]
    assert (int(table.clock), int(table.seen.sum())) == (3, 1)


def test_rows_not_learned_after_all_are_taken_back() -> None:
    table = IdTable(capacity=3, width=1)
    absorbed(table, [4, 4], [4, 5])
    weights = {f"ids.{name}": value for name, value in table.state_dict().items()}
    absorb_ids(weights, {"ids.admitted": retracted(table.count(torch.tensor([4, 5])))})
    assert table.seen[table.rows_of(torch.tensor([4, 5]))].tolist() == [2, 0]
    assert int(table.clock) == 2


def test_start_of_rows_has_the_spread_it_should_and_is_no_two_ids_own() -> None:
    table = IdTable(capacity=2000, width=8, plain=1)
    absorbed(table, list(range(1, 2001)))
    start = table.weight.detach()[1:]
    assert start[:, 0].abs().sum() == 0
    assert float(start[:, 1:].std()) == pytest.approx(0.05, rel=0.02)
    assert float(start[:, 1:].mean()) == pytest.approx(0.0, abs=0.002)
    assert len({tuple(row) for row in start.tolist()}) == 2000
    assert float(torch.corrcoef(start[:, 1:].t()).fill_diagonal_(0).abs().max()) < 0.1


def learner() -> Learner:
    shape = TableShape(numeric=0, categorical=0, buckets=2, outputs=1, ids=2, id_rows=6)
    model = Factorisation(shape, factors=2, sparse=True)
    return Learner(model, Regression(), torch.optim.Adagrad, batch_size=4, shuffle=False)


def batch(users: list[int], items: list[int]) -> Batch:
    ids = torch.tensor([users, items]).t().contiguous()
    return Batch({"numeric": torch.zeros(len(ids), 0), "ids": ids}, torch.arange(float(len(ids))).double())


def test_rows_merge_by_how_often_each_participant_saw_the_id() -> None:
    parts = [batch([1, 1, 1, 2], [5, 6, 7, 5]), batch([1, 3], [5, 6])]
    two = [learner(), learner()]
    observed = [one.observe(part) for one, part in zip(two, parts, strict=True)]
    total = {
        name: torch.cat([one[name] for one in observed]) if is_id_count(name) else observed[0][name] + observed[1][name]
        for name in observed[0]
    }
    updates, learned, anchor = [], [], {}
    for one, part in zip(two, parts, strict=True):
        one.absorb(total)
        anchor = {name: value.clone() for name, value in one.weights().items()}
        one.note_ids(part)
        one.begin(part)
        updates.append(one.advance())
        learned.append(one.id_tables["tables.0"].weight.detach().clone())
        one.share_ids(anchor)
    merged = mean(updates, anchor, two[0].rules())
    name, table = "model.tables.0.weight", two[0].id_tables["tables.0"]
    first, second, third = table.rows_of(torch.tensor([1, 2, 3])).tolist()
    start = anchor[name]
    assert (learned[0] - start)[first].abs().sum() > 0
    expected = start[first] + 0.75 * (learned[0] - start)[first] + 0.25 * (learned[1] - start)[first]
    assert torch.allclose(merged[name][first], expected, atol=1e-7)
    assert torch.allclose(merged[name][second], learned[0][second], atol=1e-7)  # seen by the first alone
    assert torch.allclose(merged[name][third], learned[1][third], atol=1e-7)
    assert merged[name][0].equal(start[0])


def test_the_only_participant_keeps_its_bits() -> None:
    one, part = learner(), batch([1, 1, 2, 3], [5, 6, 5, 6])
    one.absorb(one.observe(part))
    anchor = {name: value.clone() for name, value in one.weights().items()}
    one.note_ids(part)
    one.learn(part)
    before = {name: value.clone() for name, value in one.weights().items()}
    one.share_ids(anchor)
    assert all(value.equal(before[name]) for name, value in one.weights().items())


def test_the_optimiser_forgets_a_row_that_another_id_gets() -> None:
    one = learner()
    for users in ([1, 2, 3, 4], [5, 6, 1, 2]):
        part = batch(users, [11, 12, 13, 14])
        one.absorb(one.observe(part))
        one.learn(part)
    weight = one.id_tables["tables.0"].weight
    sums = one.optimizer.state[weight]["sum"]
    row = int(one.id_tables["tables.0"].rows_of(torch.tensor([3])))
    assert sums[row].sum() > 0
    part = batch([7, 1], [11, 12])
    one.absorb(one.observe(part))
    assert one.id_tables["tables.0"].rows_of(torch.tensor([7, 3])).tolist() == [row, 0]
    assert sums[row].sum() == 0


def test_what_a_server_keeps_is_the_bookkeeping_alone() -> None:
    names = kept_in_id_tables(learner().weights())
    assert len(names) == 14
    assert not any(name.endswith("weight") for name in names)


def test_a_new_user_and_a_new_item_are_predicted_at_the_mean() -> None:
    one, part = learner(), batch([1, 1, 2, 3], [5, 6, 5, 6])
    one.absorb(one.observe(part))
    one.learn(part)
    known, strange = one.predict({"numeric": torch.zeros(2, 0), "ids": torch.tensor([[1, 5], [99, 98]])}).tolist()
    assert isinstance(one.model, Factorisation)
    assert isinstance(one.objective, Regression)
    center, spread = (float(value) for value in one.objective.target.scale())
    assert strange == pytest.approx(center + spread * float(one.model.bias.detach()))
    assert known != pytest.approx(strange)
