"""The exchange gives every replica the bits that `update.mean` and `update.merge_shared` give in one place."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from cluster import _exchange_plan as spans
from cluster._all_to_all import OneMessage
from cluster._exchange import ReplicaExchange
from incr_core.numerics import writes
from incr_core.storage import model_sha256
from incr_core.update import Update, Weights, mean, merge_shared
from tests.support.exchanges import in_each

RULES = {
    "weight": "mean",
    "bias": "mean",
    "half": "mean",
    "empty": "mean",
    "seen": "max",
    "mask": "max",
    "moments": "sum",
    "lonely": "mean",
}


def drawn(seed: int) -> Weights:
    draw = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(37, 5, generator=draw) * 1e3,
        "bias": -torch.zeros(3),
        "half": torch.randn(17, generator=draw).bfloat16(),
        "empty": torch.zeros(0, 4),
        "seen": torch.randint(99, (5,), generator=draw),
        "mask": torch.rand(2, generator=draw) > 0.5,
        "moments": torch.randn(3, 4, generator=draw, dtype=torch.float64),
        "lonely": torch.randn((), generator=draw),
    }


def copied(weights: Weights) -> Weights:
    """What an exchange may write to."""
    return {name: value.clone() for name, value in weights.items()}


def assert_same_bits(found: Sequence[Weights], wanted: dict[str, Tensor]) -> None:
    for weights in found:
        assert model_sha256(weights) == model_sha256(wanted)


@pytest.fixture(params=["in one message", "wave by wave"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """These tensors are so small that they would all travel in one message."""
    if request.param == "wave by wave":
        monkeypatch.setattr(OneMessage, "fits", lambda tensors, size: False)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("rows", [[3, 5], [0, 4], [1, 2, 4], [3, 0, 5], [0, 0, 7], [1, 1, 0, 1, 1]])
def test_updates_merge_as_in_one_place(rows: list[int]) -> None:
    anchor = drawn(99)
    updates = [Update(drawn(seed), count) for seed, count in enumerate(rows)]
    totals: list[int] = []

    def merge(exchange: ReplicaExchange) -> Weights:
        mine = updates[exchange.rank]
        merged, total = exchange.mean(Update(copied(mine.weights), mine.num_rows), anchor, RULES)
        totals.append(total)
        return merged

    assert_same_bits(in_each(len(rows), merge), mean(updates, anchor, RULES))
    assert totals == [sum(rows)] * len(rows)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("rows", [[3, 5], [3, 0, 5], [0, 0]])
def test_shared_strategy_state_merges_as_in_one_place(rows: list[int]) -> None:
    anchor, states = drawn(99), [drawn(seed) for seed in range(len(rows))]
    found = in_each(
        len(rows), lambda exchange: exchange.shared(copied(states[exchange.rank]), rows[exchange.rank], anchor, RULES)
    )
    assert_same_bits(found, merge_shared(states, rows, RULES, anchor))


@pytest.mark.usefixtures("either_way")
def test_a_second_exchange_keeps_what_the_first_returned() -> None:
    def twice(exchange: ReplicaExchange) -> Weights:
        first, _ = exchange.mean(Update({"w": torch.full((3,), float(exchange.rank))}, 1), {}, {})
        exchange.mean(Update({"w": torch.full((3,), 9.0)}, 1), {}, {})
        return first

    assert_same_bits(in_each(2, twice), {"w": torch.full((3,), 0.5)})


def test_each_replica_sends_its_weights_at_most_twice() -> None:
    weights = {"w": torch.zeros(240_000)}
    sent: list[int] = []

    def count(exchange: ReplicaExchange) -> Weights:
        merged, _ = exchange.mean(Update(weights, 1), {}, {})
        sent.append(exchange.bytes_sent)
        return merged

    in_each(3, count)
    ring = 2 * (3 - 1) / 3 * weights["w"].nbytes
    assert all(ring <= bytes_sent < 1.01 * ring for bytes_sent in sent)


def test_an_exchange_is_done_in_place_and_seen_by_torch() -> None:
    def merge(exchange: ReplicaExchange) -> Weights:
        weights = {"w": torch.full((300_000,), float(exchange.rank)), "n": torch.tensor(exchange.rank)}
        versions = {name: writes(value) for name, value in weights.items()}
        merged, _ = exchange.mean(Update(weights, 1), {}, {"n": "max"})
        assert all(merged[name] is weights[name] and writes(weights[name]) > versions[name] for name in weights)
        return weights

    assert_same_bits(in_each(2, merge), {"w": torch.full((300_000,), 0.5), "n": torch.tensor(1)})


@pytest.mark.usefixtures("either_way")
def test_tensors_in_several_pieces_or_one_memory_merge_as_others_do() -> None:
    def made(seed: int) -> Weights:
        draw = torch.Generator().manual_seed(seed)
        shared = torch.randn(40, generator=draw)
        turned = torch.randn(7, 5, generator=draw).t()
        turned_back = torch.randn(3, 2, generator=draw, dtype=torch.complex64).conj()
        return {"turned": turned, "conj": turned_back, "all": shared, "some": shared[10:30]}

    updates = [Update(made(seed), 1 + seed) for seed in range(3)]

    def merge(exchange: ReplicaExchange) -> Weights:
        mine = made(exchange.rank)
        exchange.mean(Update(mine, 1 + exchange.rank), {}, {})
        return mine

    assert_same_bits(in_each(3, merge), mean(updates, {}, {}))


@pytest.mark.parametrize("replicas", [2, 3])
def test_many_waves_merge_as_one(replicas: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OneMessage, "fits", lambda tensors, size: False)
    monkeypatch.setitem(spans.LENGTH, "cpu", 256)
    monkeypatch.setattr(spans, "ALONE", 100)
    test_updates_merge_as_in_one_place(list(range(1, replicas + 1)))
    test_shared_strategy_state_merges_as_in_one_place(list(range(replicas)))


@pytest.mark.parametrize("replicas", [2, 3])
def test_large_tensors_travel_in_one_message_with_small_ones(replicas: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "ALONE", 100)  # bytes: "weight" and "moments" then are spans of their own
    assert len(OneMessage(drawn(0), dict.fromkeys(drawn(0), "mean") | RULES, replicas).spans) > 1
    test_updates_merge_as_in_one_place(list(range(1, replicas + 1)))
    test_shared_strategy_state_merges_as_in_one_place(list(range(replicas)))


@pytest.mark.parametrize(("floats", "replicas", "one"), [(250_000, 2, True), (600_000, 2, False), (50_000, 4, False)])
def test_one_message_is_for_weights_that_cost_little_to_merge_and_send(floats: int, replicas: int, one: bool) -> None:
    assert OneMessage.fits({"w": torch.empty(floats)}, replicas) == one


def test_the_memory_an_exchange_keeps_does_not_grow_with_the_weights() -> None:
    for size in (4_000_000, 16_000_000):
        waves = spans.waves_of({"w": torch.empty(size)}, {}, 2)
        kept = {span.received.untyped_storage().nbytes() for wave in waves for share in wave for span in share}
        assert max(kept) <= spans.WAVES * spans.LENGTH["cpu"] // 2 + 1000
