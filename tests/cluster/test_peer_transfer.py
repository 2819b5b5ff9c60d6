"""Things passed from reader to reader: through memory on one host, over a socket between two, and not at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from cluster import _reader_cache
from cluster._peer_transfer import PeerTurns
from incr_core.data.timeline import Item, Transfer

TENSORS = {
    "flag": torch.tensor(True),
    "floats": torch.randn(1000, 7, generator=torch.Generator().manual_seed(0)),
    "nothing": torch.zeros(0, 3, dtype=torch.float64),
    "hashes": torch.from_numpy(np.array([2**64 - 1], dtype=np.uint64)),
    "columns": torch.arange(6)[::2],
    "narrow": torch.ones(3, dtype=torch.bfloat16),
}


def at(place: int) -> Item:
    return place, 0, 0, 0


@pytest.fixture
def pair() -> Iterator[tuple[PeerTurns, PeerTurns, Any]]:
    store = HashStore()
    one, other = (PeerTurns(index, 2, "127.0.0.1", lambda: store, 2.0) for index in range(2))
    yield one, other, store
    one.close()
    other.close()


def changed(store: Any, index: int, **told: object) -> None:
    """Another address of a reader."""
    key = f"handing rows read/{index}"
    store.set(key, json.dumps(json.loads(store.get(key)) | told))


@pytest.mark.parametrize("local", [True, False], ids=["one host", "two hosts"])
def test_what_is_asked_for_is_what_was_made(pair: tuple[PeerTurns, PeerTurns, Any], local: bool) -> None:
    one, other, store = pair
    if not local:
        changed(store, 0, local="")
    one.offer(at(0), Transfer(TENSORS, {"rows": 3, "text": "\udcff"}))
    found = other.ask(at(0), 0)
    assert found is not None
    assert found.told == {"rows": 3, "text": "\udcff"}
    for name, value in TENSORS.items():
        assert (found.tensors[name].dtype, found.tensors[name].shape) == (value.dtype, value.shape)
        assert torch.equal(found.tensors[name], value)
        assert found.tensors[name].numel() == 0 or found.tensors[name].data_ptr() % 16 == 0


def test_what_is_written_to_is_ones_own() -> None:
    store = HashStore()
    turns = [PeerTurns(index, 3, "127.0.0.1", lambda: store, 2.0) for index in range(3)]
    turns[0].offer(at(0), Transfer({"x": torch.zeros(3)}))
    one, other = (turns[index].ask(at(0), 0) for index in (1, 2))
    assert one is not None
    assert other is not None
    one.tensors["x"][:] = 7
    assert other.tensors["x"].tolist() == [0, 0, 0]
    for reader in turns:
        reader.close()


def test_who_asks_early_waits(pair: tuple[PeerTurns, PeerTurns, Any]) -> None:
    one, other, _ = pair
    threading.Timer(0.2, lambda: one.offer(at(5), Transfer(TENSORS))).start()
    assert other.ask(at(5), 0) is not None


def test_what_will_never_come_is_not_waited_for(pair: tuple[PeerTurns, PeerTurns, Any]) -> None:
    one, other, _ = pair
    one.offer(at(1), None)  # it cannot be made
    assert other.ask(at(1), 0) is None
    one.offer(at(2), Transfer(TENSORS))
    assert other.ask(at(2), 0) is not None
    assert other.ask(at(2), 0) is None  # it was let go: all have had it
    one.reach(at(9))
    assert other.ask(at(8), 0) is None
    assert other.ask(at(3), 7) is None  # there is no such reader
    changed(_, 0, token="0" * 32)
    third = PeerTurns(1, 2, "127.0.0.1", lambda: _, 2.0)
    one.offer(at(9), Transfer(TENSORS))
    assert third.ask(at(9), 0) is None  # who does not know the token gets nothing
    third.close()
    assert other.ask(at(10), 0) is None  # and what does not come in time


def test_who_takes_a_lost_readers_place_is_asked_instead(pair: tuple[PeerTurns, PeerTurns, Any]) -> None:
    one, other, store = pair
    one.offer(at(0), Transfer(TENSORS))
    assert other.ask(at(0), 0) is not None
    found: list[Transfer | None] = []
    asking = threading.Thread(target=lambda: found.extend(other.ask(at(1), 0) for _ in range(2)))
    asking.start()  # of one that says nothing any more
    fresh = PeerTurns(0, 2, "127.0.0.1", lambda: store, 2.0)
    fresh.offer(at(1), Transfer(TENSORS))
    asking.join()
    assert [one is not None for one in found] == [False, True]
    fresh.close()


def test_what_nobody_takes_makes_room(monkeypatch: pytest.MonkeyPatch, pair: tuple[PeerTurns, PeerTurns, Any]) -> None:
    monkeypatch.setattr(_reader_cache, "ROOM", 5_000)
    one, other, _ = pair
    for place in range(4):
        one.reach(at(place))
        one.offer(at(place), Transfer({"x": torch.zeros(500, dtype=torch.float64)}))
    assert [other.ask(at(place), 0) is not None for place in range(4)] == [False, False, False, True]
    one.begin()
    one.reach(at(4))
    assert other.ask(at(3), 0) is None
