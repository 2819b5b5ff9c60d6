"""Stand-ins for the workers of a cluster: they report as replicas do, and learn nothing."""

from __future__ import annotations

import pickle
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cluster._processes import Process
from cluster._rank import Rank
from cluster._worker_messages import Due, Handover, LearnedHere, Received, Saved, Setup
from incr_core.batch import Batch
from incr_core.data.timeline import Blocks, Tick
from incr_core.metrics import binary_statistics
from incr_core.numerics import FlatTensors
from incr_core.rounds import Arrival, Round

BATCH = 32
"""Rows of each replica in each increment."""

ROWS = BATCH * 1024
"""Places between the first rows of two increments."""


class Account:
    """Seconds of the driver's CPU by part, and bytes of messages; what stand-ins do is not the driver's."""

    def __init__(self) -> None:
        self.seconds = defaultdict[str, float](float)
        self.bytes = defaultdict[str, int](int)
        self._part, self._since = "", time.thread_time()

    def switch(self, part: str) -> str:
        """From now on seconds are of this part; returns the one before."""
        now = time.thread_time()
        self.seconds[self._part] += now - self._since
        before, self._part, self._since = self._part, part, now
        return before

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Inside, seconds are of this part."""
        before = self.switch(part)
        try:
            yield
        finally:
            self.switch(before)


@cache
def dealt(replica: int, replicas: int) -> Tensor:
    """The places in an increment of the rows that a replica is dealt."""
    places = torch.arange(BATCH * replicas)
    return Blocks(replica, replicas, BATCH).deal(Batch(places, places), 0).targets


class StandIn:
    """A replica that is dealt rows, and tells of them as replicas do."""

    rank: Rank

    def __init__(self, increments: int, every: int) -> None:
        self._increments, self._every = increments, every
        self.number = -1  # of the increment at hand

    def warm(self) -> Process:
        """One that nobody can look at, or end."""
        return Process(0, "")

    def build(self, rank: Rank, key: str, generation: int, run: Setup) -> Process:
        """Take a rank."""
        self.rank = rank
        return self.warm()

    def join(self, generation: int, replicas: int) -> None:
        """There are so many from now on."""
        self.rank = replace(self.rank, replicas=replicas)

    def start(self, version: int | None, paths: Sequence[Any], weights: Any, *how: bool) -> None:
        """Go on from a commit."""
        self.number = (version or 0) * self._every - 1

    def receive(self) -> Received | None:
        """As many rows as an increment has for each."""
        if self.number + 1 == self._increments:
            return None
        self.number += 1
        replica, replicas = self.rank.replica, self.rank.replicas
        rows = dealt(replica, replicas) + self.number * ROWS
        arrival = Arrival(
            Tick(self.number, f"rows {self.number}"),
            rows,
            arriving=BATCH,
            predicted=BATCH,
            scored=BATCH,
            statistics=scores(),
            observed=OBSERVED,
            seconds=0.01,
        )
        first = self.number == 0 and replica == 0
        return Received(arrival, 1, int(not first), ["rows.parquet"] if first else [])

    def learn(self, told: bytes, due: Due | None = None) -> LearnedHere:
        """What a round costs, and of the first replica the weights."""
        done = Round({"loss": 20.0}, BATCH, 8192, 0.01, 0.001)
        if due is None or due.version is None:
            return LearnedHere(done)
        return LearnedHere(done, self.hand_over(), self.save(due.version))

    def hand_over(self, *, gathers: bool = True) -> Handover | None:
        """The weights."""
        return Handover(FlatTensors.of(WEIGHTS), {}, None) if self.rank.replica == 0 else None

    def save(self, version: int) -> Saved:
        """Nothing that anybody has to be told of."""
        return Saved()


OBSERVED = {f"model.{name}": torch.ones(16, dtype=torch.float64) for name in ("count", "mean", "spread")}
WEIGHTS = {"model.weight": torch.ones(64, 64), "model.bias": torch.zeros(64)}


@cache
def scores() -> dict[str, Any]:
    """Statistics of a batch."""
    draw = np.random.default_rng(0)
    answers = torch.from_numpy(draw.random(BATCH)), torch.from_numpy(draw.integers(0, 2, BATCH))
    return binary_statistics(*answers)


class StandIns:
    """Actors that are no processes, for a run of so many increments, of which every so many are committed.

    packs: whether calls and results are packed, and bytes counted.
    """

    host, node, need = "127.0.0.1", "here", "a CPU"

    def __init__(self, increments: int, every: int = 1, account: Account | None = None, *, packs: bool = True) -> None:
        self._increments, self.every, self._packs = increments, every, packs
        self.account = Account() if account is None else account
        self.calls = defaultdict[str, int](int)

    def require(self) -> None:
        """It is there."""

    def make(self, name: str) -> Any:
        """A stand-in."""
        return StandIn(self._increments, self.every)

    def end(self, actor: Any) -> None:
        """It is not asked any more."""

    def call(self, actor: Any, method: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """What it returns, packed."""
        driver = self.account.switch("stand-ins")
        self.calls[method] += 1
        if self._packs and (arguments or options):
            told = [argument for argument in arguments if not isinstance(argument, _Shared)]
            self.account.switch(driver)
            packed = pickle.dumps((told, options), 5)
            self.account.switch("stand-ins")
            self.account.bytes[f"to {method}"] += len(packed)
        own = [argument.value if isinstance(argument, _Shared) else argument for argument in arguments]
        done = getattr(actor, method)(*own, **options)
        if self._packs:
            done = pickle.dumps(done, 5)
            self.account.bytes[f"from {method}"] += len(done)
        call = _Call(done)
        self.account.switch(driver)
        return call

    def results(self, calls: Sequence[Any], timeout: float | None = None) -> list[Any]:
        """Unpacked."""
        return [pickle.loads(call.done) if self._packs else call.done for call in calls]

    def ended(self, calls: Sequence[Any], least: int, timeout: float) -> Collection[Any]:
        """All."""
        return set(calls)

    def shared(self, value: Any) -> Any:
        """Packed once."""
        self.account.bytes["shared"] += len(pickle.dumps(value, 5)) if self._packs else 0
        return _Shared(value)

    def placed(self, actor: Any) -> bool:
        """It is."""
        return True

    def free(self) -> float:
        """As much as you like."""
        return 1e9

    def total(self) -> float:
        """As much as you like."""
        return 1e9

    def draining(self) -> set[str]:
        """None."""
        return set()

    def exports(self, run: str) -> Any:
        """Nobody is told."""
        return self

    def learned(self, rows: int, seconds_predicting: float, done: Round) -> None:
        """Of an increment."""

    def committed(self, version: int) -> None:
        """Of a version."""

    def lost(self) -> None:
        """Of a loss."""

    def close(self) -> None:
        """Nothing is to be left."""


class _Call:
    def __init__(self, done: Any) -> None:
        self.done = done


class _Shared:
    def __init__(self, value: Any) -> None:
        self.value = value
