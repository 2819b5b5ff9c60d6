"""Weights rounded on their way: what replicas come to by hand, that all come to the same, and that nothing is lost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cluster import _rounded_exchange as rounded_spans
from cluster._exchange import ReplicaExchange
from incr_core.storage import model_sha256
from incr_core.update import Update, Weights, mean
from tests.support.exchanges import in_each

RULES = {"w": "mean", "v": "mean", "seen": "max", "moments": "sum", "running": "mean"}


def zeros(weights: Weights, *names: str) -> Weights:
    return {name: torch.zeros(weights[name].shape) for name in names}


def test_two_replicas_by_hand() -> None:
    # The first half of the numbers is merged by replica 0, the second by replica 1; each codes the other's half.
    learned = [
        [127.0, 1.4, 0.0, 0.0, 254.0, 0.8, 0.0, 0.0],  # of the second half 254, 0, 0, 0 arrives: 0.8 is left
        [0.0, 0.0, 127.0, 0.6, 0.0, 127.0, 3.6, 0.0],  # of the first half 0, 0, 127, 1 arrives: -0.4 is left
    ]
    # The means are 63.5, 0.7, 63.5, 0.5 in steps of 0.5, and 127, 63.5, 1.8, 0 in steps of 1, halves to the even.
    anchor = torch.arange(8.0) * 1000

    def twice(exchange: ReplicaExchange) -> tuple[Tensor, Tensor]:
        weights = {"w": anchor + torch.tensor(learned[exchange.rank])}
        left = zeros(weights, "w")
        merged, rows = exchange.mean(Update(weights, 5), {"w": anchor.clone()}, {}, left)
        assert merged["w"] is weights["w"]
        assert rows == 10
        return merged["w"] - anchor, left["w"]

    for number, (moved, left) in enumerate(in_each(2, twice, "int8")):
        assert moved.tolist() == [63.5, 0.5, 63.5, 0.5, 127.0, 64.0, 2.0, 0.0]
        still = [[0.0, 0.2, 0.0, 0.0, 0.0, 0.8, 0.0, 0.0], [0.0, 0.0, 0.0, -0.4, 0.0, -0.5, -0.2, 0.0]][number]
        assert torch.allclose(left, torch.tensor(still), atol=1e-3)


def drawn(seed: int) -> Weights:
    draw = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(37, 50, generator=draw),
        "v": torch.randn(5, 3, generator=draw).t(),
        "seen": torch.randint(99, (5,), generator=draw),
        "moments": torch.randn(3, generator=draw, dtype=torch.float64),
        "running": torch.randn(300, generator=draw),
        "frozen": torch.full((9,), 1 / 3),
    }


@pytest.mark.parametrize("wire", ["int8", "float16"])
@pytest.mark.parametrize("rows", [[3, 5], [1, 2, 4], [3, 0, 5], [0, 0, 7]])
def test_over_many_rounds_nothing_is_lost_but_what_is_left(
    rows: list[int], wire: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounded_spans, "LENGTH", 1024)  # many waves
    start, size, rounds = drawn(99), len(rows), 12

    def learn(exchange: ReplicaExchange) -> tuple[Weights, Weights, list[str]]:
        weights = {name: value.clone() for name, value in start.items()}
        left, hashes = zeros(weights, "w", "v", "frozen"), list[str]()
        for number in range(rounds):
            anchor = {name: value.clone() for name, value in weights.items()}
            if rows[exchange.rank]:
                for name, value in drawn(100 * number + exchange.rank).items():
                    weights[name].add_(value if name not in ("frozen", "seen") else 0)
            exchange.mean(Update(weights, rows[exchange.rank]), anchor, RULES, left)
            hashes.append(model_sha256(weights))
        return weights, left, hashes

    found = in_each(size, learn, wire)
    weights, _, hashes = found[0]
    assert all(others == hashes for _, _, others in found), "all end with the same bits"
    p = [count / sum(rows) for count in rows]
    for name in ("w", "v"):
        exact = start[name] + sum(
            p[rank] * drawn(100 * number + rank)[name] for number in range(rounds) for rank in range(size)
        )
        missing, left = exact - weights[name], [own[name] for _, own, _ in found]
        # Of each number one replica, its merger, keeps what is left of the mean; the others, of what they learned.
        owed = torch.stack(
            [
                left[merger] + sum(p[rank] * left[rank] for rank in range(size) if rank != merger)
                for merger in range(size)
            ]
        )
        assert ((owed - missing).abs().amin(0) < 1e-4).all()
        assert missing.abs().max() < (0.2 if wire == "int8" else 0.01)
    assert weights["frozen"].equal(start["frozen"])


@pytest.mark.parametrize("wire", ["int8", "float16"])
def test_what_may_not_be_rounded_arrives_as_it_is(wire: str) -> None:
    updates, anchor = [Update(drawn(seed), 1 + seed) for seed in range(3)], drawn(99)

    def merge(exchange: ReplicaExchange) -> Weights:
        weights = {name: value.clone() for name, value in updates[exchange.rank].weights.items()}
        return exchange.mean(Update(weights, 1 + exchange.rank), anchor, RULES, zeros(weights, "w", "v"))[0]

    exact = mean(updates, anchor, RULES)
    for merged in in_each(3, merge, wire):
        assert all(merged[name].equal(exact[name]) for name in ("seen", "moments", "running", "frozen"))
        assert not merged["w"].equal(exact["w"])


def test_where_nobody_has_learned_nothing_moves() -> None:
    anchor = drawn(1)

    def merge(exchange: ReplicaExchange) -> tuple[Weights, Weights]:
        weights, left = {name: value.clone() for name, value in anchor.items()}, zeros(anchor, "w", "v")
        left["w"] += 1.0
        return exchange.mean(Update(weights, 0), anchor, RULES, left)[0], left

    for merged, left in in_each(2, merge, "int8"):
        assert model_sha256(merged) == model_sha256(anchor)
        assert (left["w"] == 1.0).all()


def test_fewer_bytes_travel() -> None:
    def sent(wire: str) -> float:
        def count(exchange: ReplicaExchange) -> int:
            weights = {"w": torch.zeros(120_000)}
            left = zeros(weights, "w") if exchange.rounds else {}
            exchange.mean(Update(weights, 1), {"w": torch.zeros(120_000)}, {}, left)
            return exchange.bytes_sent

        return sum(in_each(3, count, wire))

    assert sent("float16") / sent("float32") == pytest.approx(1 / 2, rel=0.02)
    assert sent("int8") / sent("float32") == pytest.approx(1 / 4, rel=0.03)
