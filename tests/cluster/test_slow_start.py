"""Where there may be fewer replicas, only want of room makes them fewer: not a host on which a worker starts slowly."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import GetTimeoutError
from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from benchmarks.stand_ins import StandIns
from cluster._rank import Rank
from cluster._worker_calls import NoRoom
from cluster._worker_pool import WorkerPool

pytestmark = pytest.mark.ray

TIMEOUT = 0.1


class Slow(StandIns):
    """Workers that start after several timeouts; room: whether they have a place meanwhile."""

    def __init__(self, room: bool) -> None:
        super().__init__(1)
        self._until, self._has_room = time.monotonic() + 4 * TIMEOUT, room
        self._building = list[Any]()

    def placed(self, actor: Any) -> bool:
        return self._has_room

    def call(self, actor: Any, method: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        call = super().call(actor, method, arguments, options)
        self._building += [call] * (method == "build")
        return call

    def ended(self, calls: Sequence[Any], least: int, timeout: float) -> set[Any]:
        return set(calls) - set(self._building if time.monotonic() < self._until else [])

    def results(self, calls: Sequence[Any], timeout: float | None = None) -> list[Any]:
        if len(self.ended(calls, 1, 0.0)) < len(calls):
            time.sleep(TIMEOUT / 10)
            raise GetTimeoutError
        return super().results(calls, timeout)


@pytest.mark.parametrize("room", [True, False])
def test_who_has_a_place_is_waited_for_and_who_has_none_is_not(room: bool) -> None:
    setup: Any = SimpleNamespace(document={"name": "people"}, directory=SimpleNamespace(path="run"))
    pool = WorkerPool(Slow(room), HashStore(), TIMEOUT, spares=0, setup=setup)
    places = [Rank(replica, 2, 0, 1) for replica in range(2)]
    if room:
        assert pool.form(places, patient=False) == places
    else:
        with pytest.raises(NoRoom, match=r"replica 0, replica 1 did not start within 0\.1 s"):
            pool.form(places, patient=False)


def test_too_little_room_is_told_at_once_with_what_there_is(caplog: pytest.LogCaptureFixture) -> None:
    class Full(Slow):
        """A Ray that has room for one worker."""

        def free(self) -> float:
            return 1.0

    setup: Any = SimpleNamespace(document={"name": "people"}, directory=SimpleNamespace(path="run"))
    pool = WorkerPool(Full(False), HashStore(), TIMEOUT, spares=0, setup=setup)
    with pytest.raises(NoRoom, match=r"did not start within .*Ray has room for 1 more; lower cluster.replicas or"):
        pool.form([Rank(replica, 3, 0, 1) for replica in range(3)], patient=False)
    [told] = [record.getMessage() for record in caplog.records if "waiting for room" in record.getMessage()]
    assert "3 workers need" in told
    assert "Ray has room for 1; add nodes, or lower cluster.replicas" in told


@pytest.mark.usefixtures("ray_session")
def test_workers_of_a_ray_of_our_own_are_no_nicer_than_we_are() -> None:
    """Else their signs of life come late on a busy host."""
    assert ray.get(ray.remote(num_cpus=0)(lambda: os.nice(0)).remote()) == os.nice(0)
