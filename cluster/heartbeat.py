"""Signs of life: a worker that is stopped, or cut off, closes no connection; only its silence tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from torch.distributed import Store  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

__all__ = ["Heartbeat", "Pulse"]


class Heartbeat:
    """Count up a key of a store, every so many seconds, from a thread of its own, until the process or the store ends.

    >>> from torch.distributed import HashStore
    >>> beat = Heartbeat(store := HashStore(), "alive/0", every=60.0)
    >>> while store.add("alive/0", 0) < 1:
    ...     time.sleep(0.01)
    """

    def __init__(self, store: Store, key: str, every: float) -> None:
        self._store = store
        self._key = key
        self._every = every
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        while True:
            try:
                self._store.add(self._key, 1)
            except RuntimeError:  # the driver, and with it the store, is gone
                return
            time.sleep(self._every)


class Pulse:
    """Who has been silent for too long? Asked now and then, by whoever waits.

    keys: one of each worker. timeout: seconds of silence that are too long, counted while somebody asks.
    start: seconds that a worker has before its first sign of life.

    >>> from torch.distributed import HashStore
    >>> store, now = HashStore(), [0.0]
    >>> pulse = Pulse(store, ["alive/0", "alive/1"], timeout=60.0, start=90.0, clock=lambda: now[0])
    >>> pulse.listen(); _ = store.add("alive/1", 1)
    >>> pulse.silent(); now[0] = 61.0; pulse.silent(); now[0] = 91.0; pulse.silent()
    []
    [1]
    [0, 1]
    """

    def __init__(
        self,
        store: Store,
        keys: Sequence[str],
        timeout: float,
        start: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._keys = keys
        self._timeout = timeout
        self.start = start
        self._clock = clock
        self._beats = [0] * len(keys)
        self._heard = [0.0] * len(keys)

    def listen(self) -> None:
        """Begin to wait: what was before does not count as silence."""
        self._heard = [self._clock()] * len(self._keys)

    def silent(self) -> list[int]:
        """The places in `keys` of the workers that have been silent for too long."""
        now = self._clock()
        for place, key in enumerate(self._keys):
            beats = self._store.add(key, 0)
            if beats != self._beats[place]:
                self._beats[place], self._heard[place] = beats, now
        return [
            place
            for place, (beats, heard) in enumerate(zip(self._beats, self._heard, strict=True))
            if now - heard > (self._timeout if beats else self.start)
        ]

    def never_heard(self) -> list[int]:
        """The places of those that never gave a sign."""
        return [place for place, beats in enumerate(self._beats) if beats == 0]
