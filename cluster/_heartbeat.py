"""Signs of life: a worker that is stopped, cut off or stuck closes no connection; only its silence tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch.distributed import Store  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from cluster._watched_thread import WatchedThread

__all__ = ["Beat", "Heartbeat", "Pulse", "Silent"]

STARVED = 10
"""How many timeouts a process may be silent that is there and not stopped: its host has no time for it."""

WORKING, WAITING, RECEIVING = "working", "waiting", "receiving"


@dataclass(frozen=True, slots=True)
class Beat:
    """One sign of life.

    number: counts up. busy: CPU seconds of the thread that works. state: "working"; "waiting", for peers, for a call or
    for a processor; or "receiving" the next increment, which may be long in coming. at: where in the code.

    >>> Beat.of(str(Beat(3, 1.5, "working", "step (fit.py, line 7)")).encode())
    Beat(number=3, busy=1.5, state='working', at='step (fit.py, line 7)')
    """

    number: int
    busy: float
    state: str
    at: str = ""

    def __str__(self) -> str:
        return f"{self.number} {self.busy!r} {self.state} {self.at}"

    @classmethod
    def of(cls, told: bytes) -> Beat:
        """What `str` made of it."""
        number, busy, state, *at = told.decode().split(" ", 3)
        return cls(int(number), float(busy), state, "".join(at))


class Heartbeat:
    """Set a key of a store to the latest `Beat`, from a thread of its own, until the process or the store ends.

    It is made by the thread that works, whose CPU time it tells.

    >>> from torch.distributed import HashStore
    >>> beat = Heartbeat(store := HashStore(), "alive/0", every=60.0)
    >>> Beat.of(store.get("alive/0")).state
    'waiting'
    """

    def __init__(self, store: Store, key: str, every: float) -> None:
        self._store = store
        self._key = key
        self._every = every
        self._thread = WatchedThread()
        self._state = WAITING
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    @contextmanager
    def doing(self, state: str) -> Iterator[None]:
        """While this lasts, the worker is in this state."""
        before, self._state = self._state, state
        try:
            yield
        finally:
            self._state = before

    def _beat(self) -> None:
        number = 0
        while True:
            number += 1
            try:
                self._store.set(self._key, str(self._told(number)))
            except RuntimeError:  # the driver, and with it the store, is gone
                return
            time.sleep(self._every)

    def _told(self, number: int) -> Beat:
        state = self._state
        seen = self._thread.look(reads=state == RECEIVING)
        # In a sharded model's layers it waits for peers without saying so; on a busy host, for a processor.
        return Beat(number, seen.seconds, WAITING if seen.waits else state, seen.at)


@dataclass(frozen=True, slots=True)
class Silent:
    """A worker that has been silent or stuck for too long: its place among the keys, and what is known of it."""

    place: int
    told: str


class Pulse:
    """Who has been silent or stuck for too long? Asked now and then, by whoever waits.

    Silent is who gives no sign; stuck, who works without its thread using any CPU: it hangs in a call that does not
    return. Who waits for peers is neither, for then one of them is.

    keys: one of each worker. timeout: seconds that are too long, counted while somebody asks. start: seconds that a
    worker has before its first sign of life. starved: asked of a silent worker's place whether its process is there
    and may run; if so, it has `STARVED` timeouts.

    >>> from torch.distributed import HashStore
    >>> store, now = HashStore(), [0.0]
    >>> pulse = Pulse(store, ["alive/0", "alive/1"], timeout=60.0, start=90.0, clock=lambda: now[0])
    >>> pulse.listen(); store.set("alive/1", "1 0.5 working")
    >>> [one.place for one in pulse.lost()]; now[0] = 61.0; pulse.lost(); now[0] = 91.0; pulse.lost()
    []
    [Silent(place=1, told='gave no sign of life for 60 s')]
    [Silent(place=0, told='gave no sign of life for 90 s'), Silent(place=1, told='gave no sign of life for 60 s')]
    """

    def __init__(
        self,
        store: Store,
        keys: Sequence[str],
        timeout: float,
        start: float,
        clock: Callable[[], float] = time.monotonic,
        starved: Callable[[int], bool] = lambda place: False,
    ) -> None:
        self._store = store
        self.keys = list(keys)
        self.timeout = timeout
        self.start = start
        self._clock = clock
        self._starved = starved
        self._beats: list[Beat | None] = [None] * len(keys)
        self.listen()

    def listen(self) -> None:
        """Begin to wait: what was before does not count as silence."""
        now = self._clock()
        self._heard, self._moved = [now] * len(self.keys), [now] * len(self.keys)

    def replace(self, place: int, key: str) -> None:
        """Another worker takes this place."""
        self.keys[place], self._beats[place] = key, None

    def lost(self, receiving: bool = False) -> list[Silent]:
        """The workers that have been silent or stuck for too long; `receiving`: those too that receive for so long."""
        self._look()
        now, found = self._clock(), []
        # Who seems stuck may wait for one whose beats are missing; it is judged once it was silent for long.
        missing = any(
            beat is not None and now - heard > self.timeout / 2
            for beat, heard in zip(self._beats, self._heard, strict=True)
        )
        for place, beat in enumerate(self._beats):
            patience = self.start if beat is None else self.timeout
            silence, rest = now - self._heard[place], now - self._moved[place]
            if silence > patience * STARVED or (silence > patience and not self._starved(place)):
                found.append(Silent(place, f"gave no sign of life for {patience:g} s"))
            elif beat is None or (missing and rest <= patience * STARVED):
                continue
            elif rest > patience and beat.state in (WORKING, RECEIVING)[: 1 + receiving]:
                where = f"{beat.at}, which" if beat.at else "something that"
                found.append(Silent(place, f"was stuck for {patience:g} s: it hangs in {where} does not return"))
        return found

    def _look(self) -> None:
        now = self._clock()
        # Those that were heard before are asked for together; of the others one does not know whether they are there.
        there = [
            place for place, beat in enumerate(self._beats) if beat is not None or self._store.check([self.keys[place]])
        ]
        told = self._store.multi_get([self.keys[place] for place in there]) if there else []
        for place, beat in zip(there, map(Beat.of, told), strict=True):
            before = self._beats[place]
            if beat == before:
                continue
            self._heard[place] = now
            # A beat itself costs its own thread a little, and the one that works nothing.
            if before is None or beat.state == WAITING or beat.busy != before.busy or beat.state != before.state:
                self._moved[place] = now
            self._beats[place] = beat

    def waits(self) -> dict[int, bool]:
        """Of those who gave a sign, whether they waited then."""
        return {place: beat.state == WAITING for place, beat in enumerate(self._beats) if beat is not None}

    def never_heard(self) -> list[int]:
        """The places of those that never gave a sign."""
        return [place for place, beat in enumerate(self._beats) if beat is None]
