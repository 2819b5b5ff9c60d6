"""Signs of life. A worker that is stopped, cut off or stuck closes no connection and is recognised only by silence."""

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
"""Timeouts after which a silent process counts as lost although it exists and runs: a busy host may delay it."""

WORKING, WAITING, RECEIVING = "working", "waiting", "receiving"


@dataclass(frozen=True, slots=True)
class Beat:
    """One sign of life.

    Args:
        number: A counter.
        busy: CPU seconds of the working thread.
        state: "working"; "waiting" for peers, a call or a processor; or "receiving" the next increment, which may take
            long.
        at: Place in the code.

    Example:
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
        """Parse the text that `str` returned."""
        number, busy, state, *at = told.decode().split(" ", 3)
        return cls(int(number), float(busy), state, "".join(at))


class Heartbeat:
    """Writes the latest `Beat` to a key of a store, from a separate thread, until the process or the store ends.

    The working thread creates it, so that the thread's CPU time can be read.

    Example:
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
        """Set the worker's state for the duration of the context."""
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
            except RuntimeError:  # the driver is gone, and the store with it
                return
            time.sleep(self._every)

    def _told(self, number: int) -> Beat:
        state = self._state
        seen = self._thread.look(reads=state == RECEIVING)
        # The layers of a sharded model wait for peers without a call that says so; a busy host delays the processor.
        return Beat(number, seen.seconds, WAITING if seen.waits else state, seen.at)


@dataclass(frozen=True, slots=True)
class Silent:
    """A worker that has been silent or stuck for too long: its place among the keys, and the reason."""

    place: int
    told: str


class Pulse:
    """Finds workers that have been silent or stuck for too long, when a waiting caller asks.

    A silent worker gives no sign of life. A stuck worker gives signs, but its working thread uses no CPU: it hangs in a
    call that does not return. A worker that waits for peers is neither, because the fault is then a peer's.

    Args:
        keys: One key for each worker.
        timeout: Seconds that count as too long, counted while a caller asks.
        start: Seconds that a worker has before its first sign of life.
        starved: Returns whether the process of a silent worker, by place, exists and may run. If so, the worker has
            `STARVED` timeouts.

    Example:
        >>> from torch.distributed import HashStore
        >>> store, now = HashStore(), [0.0]
        >>> pulse = Pulse(store, ["alive/0", "alive/1"], timeout=60.0, start=90.0, clock=lambda: now[0])
        >>> pulse.listen(); store.set("alive/1", "1 0.5 working")
        >>> pulse.lost(); now[0] = 61.0; [(one.place, one.told) for one in pulse.lost()]
        []
        [(1, 'gave no sign of life for 60 s')]
        >>> now[0] = 91.0; [(one.place, one.told) for one in pulse.lost()]
        [(0, 'gave no sign of life for 90 s'), (1, 'gave no sign of life for 60 s')]
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
        """Begin to wait. Earlier time does not count as silence."""
        now = self._clock()
        self._heard, self._moved = [now] * len(self.keys), [now] * len(self.keys)

    def replace(self, place: int, key: str) -> None:
        """Note that another worker takes this place."""
        self.keys[place], self._beats[place] = key, None

    def lost(self, receiving: bool = False) -> list[Silent]:
        """Return the workers that have been silent or stuck for too long; with `receiving`, also those that receive too
        long."""
        self._look()
        now, found = self._clock(), []
        # A worker that seems stuck may wait for one without beats, which is judged after a long silence.
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
        # Workers that have given a sign are read in one request; the others may not be there yet.
        there = [
            place for place, beat in enumerate(self._beats) if beat is not None or self._store.check([self.keys[place]])
        ]
        told = self._store.multi_get([self.keys[place] for place in there]) if there else []
        for place, beat in zip(there, map(Beat.of, told), strict=True):
            before = self._beats[place]
            if beat == before:
                continue
            self._heard[place] = now
            # A beat costs its own thread some CPU time, and the working thread none.
            if before is None or beat.state == WAITING or beat.busy != before.busy or beat.state != before.state:
                self._moved[place] = now
            self._beats[place] = beat

    def waits(self) -> dict[int, bool]:
        """Return, for workers that have given a sign, whether they waited at that time."""
        return {place: beat.state == WAITING for place, beat in enumerate(self._beats) if beat is not None}

    def never_heard(self) -> list[int]:
        """Places of workers that never gave a sign."""
        return [place for place, beat in enumerate(self._beats) if beat is None]
