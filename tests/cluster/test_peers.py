"""Waiting for peers: who is late is waited for, and who is gone is not."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from cluster._exchange import ReplicaExchange
from cluster._heartbeat import Heartbeat
from cluster._peers import LOOK, Peers, ended_key
from incr_core.errors import EngineError
from tests.support.exchanges import in_each

HEART = Heartbeat(HashStore(), "alive/0", every=60.0)


class DoneAtLast:
    """An exchange that is over just when the time to wait for it is."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def wait(self, patience: timedelta) -> None:
        try:
            self._work.wait(patience)
        except RuntimeError:
            while not self._work.is_completed():
                time.sleep(0.01)
            raise

    def is_completed(self) -> bool:
        return bool(self._work.is_completed())


def test_a_peer_that_comes_as_the_time_to_wait_is_over_is_not_lost() -> None:
    def one(exchange: ReplicaExchange) -> list[int]:
        if exchange.rank == 1:
            time.sleep(2.5 * LOOK.total_seconds())
        told, found = torch.tensor([exchange.rank] * 2), torch.empty(2, dtype=torch.int64)
        Peers(HashStore(), HEART).wait(DoneAtLast(exchange.group.alltoall_base(found, told, [], [])))
        return found.tolist()

    assert in_each(2, one) == [[0, 1]] * 2


@pytest.mark.parametrize("ended", [False, True])
def test_a_peer_that_is_gone_is_told(ended: bool) -> None:
    """By its connection or, where that stays, by the end of the generation."""
    store = HashStore()

    def one(exchange: ReplicaExchange) -> str:
        if exchange.rank == 1:
            if ended:
                store.set(ended_key(0), "")
                time.sleep(2 * LOOK.total_seconds())
            exchange.group.abort()
            return ""
        told = torch.zeros(2, dtype=torch.int64)
        with pytest.raises(EngineError) as raised:
            Peers(store, HEART).wait(exchange.group.alltoall_base(torch.empty_like(told), told, [], []))
        return str(raised.value)

    [told, _] = in_each(2, one)
    assert ("generation 0 has ended" if ended else "the connection to a peer is lost: ") in told
    assert "timed out" not in told
