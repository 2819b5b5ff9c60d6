"""Remembered rows drawn from the memories of all replicas, which lend one another what is drawn."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from cluster._exchange import ReplicaExchange
from cluster._heartbeat import Heartbeat
from cluster._memory_lending import PeerLending
from cluster._peer_transfer import PeerTurns
from cluster._peers import Peers, ended_key
from cluster._rank import Rank
from cluster.engine import ClusterEngine
from incr_core.batch import Batch
from incr_core.errors import EngineError, JobError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.memories import Reservoir, columns_of
from incr_core.objectives import Binary
from incr_core.rounds import _borrowing, check_borrowing
from incr_core.rounds._borrowing import borrowed
from incr_core.strategies import AGEM, DER, MIR, Replay, Strategy
from incr_core.update import Weights
from tests.support.exchanges import in_each

pytestmark = [pytest.mark.ray]

CPU = torch.device("cpu")
LIMIT = 240.0
"""Seconds after which what is waited for does not come: the code is wrong, and nothing is slow."""
HEART = Heartbeat(HashStore(), "alive", every=1000.0)


def rows_of(replica: int, count: int) -> Batch:
    """Rows whose ids say whose they are: replica r has 1000 r, 1000 r + 1, ..."""
    ids = 1000 * replica + torch.arange(count)
    return Batch(torch.randn(count, 2), (ids % 2).float(), row_ids=ids)


def remembering(replica: int, count: int, *strategies: Strategy) -> Learner:
    """The learner of a replica, whose memories hold so many rows."""
    learner = Learner(nn.Linear(2, 1), Binary(), "sgd", strategies or [Replay(100)], batch_size=8, seed=replica)
    for memory in learner.memories():
        memory.insert(columns_of(rows_of(replica, count)), learner.context.generator)
    return learner


@contextmanager
def lending_of(
    exchange: ReplicaExchange, store: Any, local: bool = True, kind: type[PeerLending] = PeerLending
) -> Iterator[PeerLending]:
    place = Rank(exchange.rank, exchange.size, 0, 1)
    turns = PeerTurns(place.number, exchange.size, "127.0.0.1", lambda: store, 5.0, what="test", bounded=False)
    lending = kind(turns, Peers(store, HEART), place)
    if not local:
        key = f"handing test/{exchange.rank}"
        store.set(key, json.dumps(json.loads(store.get(key)) | {"local": ""}))
    try:
        yield lending
    finally:
        lending.close()
        turns.close()


Drawn = list[list[int]]


def drawn(held: Sequence[int], count: int, times: int, local: bool = True) -> list[Drawn]:
    """The ids of `count` rows drawn so many times by each of the replicas, whose memories hold so many rows."""
    store = HashStore()

    def one(exchange: ReplicaExchange) -> Drawn:
        learner = remembering(exchange.rank, held[exchange.rank])
        [memory] = learner.memories()
        with lending_of(exchange, store, local) as lending:
            with borrowed(learner, exchange, lending, count * times, times):
                found = [memory.sample(count, learner.context.generator)["rows"].tolist() for _ in range(times)]
            exchange.total(0, CPU)  # all have what they have borrowed
        assert memory.others is None
        rows = memory.rows_held().get("rows", torch.arange(0))
        assert rows.tolist() == [1000 * exchange.rank + row for row in range(held[exchange.rank])], "as before"
        return found

    return in_each(len(held), one)


@pytest.mark.parametrize("local", [True, False], ids=["one host", "two hosts"])
def test_rows_are_drawn_as_if_the_memories_were_one(local: bool) -> None:
    found = drawn([60, 30, 10, 0], count=10, times=4, local=local)
    for replica, own in enumerate(found):
        every = [row // 1000 for rows in own for row in rows]
        shares = [every.count(giver) for giver in range(4)]
        expected = [24, 12, 4, 0]
        # Exact, up to what is left over of a row.
        assert all(abs(one - other) <= 1 for one, other in zip(shares, expected, strict=True)), (replica, shares)
        theirs = [row for rows in own for row in rows if row // 1000 != replica]
        assert len(set(theirs)) == len(theirs), "none twice, where there are enough"
    assert found == drawn([60, 30, 10, 0], count=10, times=4)
    assert {row for own in found for rows in own for row in rows if row < 1000} != set(range(60)), "a sample"


def test_what_all_remember_is_drawn_again_once_all_of_it_was() -> None:
    [one, _] = drawn([1, 3], count=8, times=3)
    theirs = [row for rows in one for row in rows if row >= 1000]
    assert len(theirs) == pytest.approx(18, abs=1)
    assert [theirs.count(1000 + row) for row in range(3)] == pytest.approx([6, 6, 6], abs=1)


def test_most_of_it_comes_while_steps_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_borrowing, "FIRST", 10)
    store, drew, late = HashStore(), [threading.Event(), threading.Event()], list[int]()

    class Late(PeerLending):
        """What is not needed at first is not there before the first draw."""

        def lend(self, taker: int, piece: int, rows: Weights) -> None:
            def later() -> None:
                if drew[taker].wait(LIMIT):
                    late.append(taker)
                    PeerLending.lend(self, taker, piece, rows)

            threading.Thread(target=later).start() if piece else super().lend(taker, piece, rows)

    def one(exchange: ReplicaExchange) -> list[int]:
        learner = remembering(exchange.rank, 100)
        [memory] = learner.memories()
        with lending_of(exchange, store, kind=Late) as lending:
            with borrowed(learner, exchange, lending, 80, 10):
                found = [len(memory.sample(10, learner.context.generator)["rows"])]
                drew[exchange.rank].set()
                found.append(len(memory.sample(70, learner.context.generator)["rows"]))
            exchange.total(0, CPU)
        return found

    assert in_each(2, one) == [[10, 70]] * 2
    assert sorted(late) == [0, 1]


def test_what_does_not_come_is_the_loss_of_a_peer() -> None:
    store, kept = HashStore(), threading.Event()

    class Mute(PeerLending):
        def lend(self, taker: int, piece: int, rows: Weights) -> None:
            """Says nothing."""

    def one(exchange: ReplicaExchange) -> str:
        learner = remembering(exchange.rank, 9)
        [memory] = learner.memories()
        with (
            lending_of(exchange, store, kind=PeerLending if exchange.rank else Mute) as lending,
            borrowed(learner, exchange, lending, 8, 1),
        ):
            if exchange.rank == 0:
                assert kept.wait(LIMIT)
                return ""
            store.set(ended_key(0), "")  # as the driver does when somebody is lost
            with pytest.raises(EngineError) as error:
                memory.sample(8, learner.context.generator)
            kept.set()
            return str(error.value)

    assert in_each(2, one)[1] == "generation 0 has ended while waiting for peers"


@pytest.mark.parametrize(
    "strategy",
    [Replay(100, ratio=0.5), DER(100), DER(100, labels=0.0), MIR(100, candidates=20), AGEM(100, rows=30)],
    ids=lambda strategy: type(strategy).__name__,
)
def test_a_strategy_tells_how_many_rows_it_draws(strategy: Strategy) -> None:
    learner = Learner(nn.Linear(2, 1), Binary(), "sgd", [strategy], batch_size=8)
    learner.learn(rows_of(0, 40))
    asked = []

    class Counting:
        size = 1

        def beside(self, own: Callable[[int], Any], held: int, count: int) -> Any:
            asked.append(count)
            return own(count)

    [memory] = learner.memories()
    memory.others = Counting()  # type: ignore[assignment]
    learner.learn(rows_of(1, 40))
    assert sum(asked) == strategy.draws(40, 5)


class OwnMemory(Reservoir):
    def sample(self, count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return super().sample(count, generator)


def test_what_cannot_be_drawn_from_all_is_refused(small_job: Callable[..., Job], tmp_path: Path) -> None:
    for strategy, told in (
        ("ewc", r'expected a strategy that remembers rows with "all", such as replay, got none'),
        ("gdumb", r'expected strategies that draw remembered rows with "all", got GDumb, which'),
    ):
        job = small_job("cluster.memory_scope=all", strategy=[{"name": strategy}])
        with pytest.raises(JobError, match="cluster.memory_scope: " + told):
            ClusterEngine(job, tmp_path)
    replay = Replay(9)
    replay.memory = OwnMemory(9)
    with pytest.raises(JobError, match=r"got OwnMemory, which overrides `sample`; override `sample_held` there"):
        check_borrowing([replay])
    with pytest.raises(JobError, match=r'cluster.memory_scope: expected "own" or "all", got "some"'):
        small_job("cluster.memory_scope=some")
