"""What a worker keeps of a version is written while it learns on, and the driver is told when it is on the disk.

    worker     copies its state in memory, and goes on; a thread writes the copy, and then tells through the store
    driver     waits until all have told, puts the whole weights together from the parts of one replica, and commits

One state is written at a time: the next copy lies where that one lies.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from incr_core.errors import EngineError
from incr_core.numerics import stored, unstored
from incr_core.storage import remove, storage, write_atomically
from incr_core.update import Weights

__all__ = ["StateWriter", "await_all", "take_shards", "write_shard"]

LOOK = 0.02
"""Seconds between looks at whether all have told."""

PARTS = "weights.safetensors"


class StateWriter:
    """A thread that writes, one state at a time.

    store: a connection of its own. patience: seconds that a disk may take without the thread doing anything.

    >>> from torch.distributed import HashStore
    >>> writer = StateWriter(store := HashStore(), 60.0)
    >>> writer.begin(lambda: {"cut": ["w"]}, "written/1"); writer.settle()
    >>> await_all(store, ["written/1"], lambda: False)
    [{'cut': ['w']}]
    """

    def __init__(self, store: Store, patience: float) -> None:
        self._store, self._patience = store, patience
        self._thread: threading.Thread | None = None
        self._clock: int | None = None
        self._failed: Exception | None = None

    def begin(self, write: Callable[[], Mapping[str, Any]], key: str) -> None:
        """Write, and tell under that key of the store what `write` returns; what was begun before must be over."""
        self._thread = threading.Thread(target=self._write, args=(write, key), name="incr-writer", daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Wait until nothing is being written; raises what went wrong.

        While something is, this thread shows that it is alive. It does not where nothing has moved for long: then who
        listens to its heart counts it as stuck.
        """
        thread, self._thread = self._thread, None
        moved, spent = time.monotonic(), self._spent()
        while thread is not None and thread.is_alive():
            thread.join(1.0)
            if (now := self._spent()) != spent:
                moved, spent = time.monotonic(), now
            elif time.monotonic() - moved > self._patience:
                thread.join()
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def _spent(self) -> float:
        """CPU seconds of the thread that writes, as long as there is one."""
        with suppress(OSError):
            return 0.0 if self._clock is None else time.clock_gettime(self._clock)
        return 0.0

    def _write(self, write: Callable[[], Mapping[str, Any]], key: str) -> None:
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        try:
            told: Mapping[str, Any] | None = write()
        except Exception as error:
            self._failed, told = error, None
        with suppress(RuntimeError):  # the driver, and with it the store, is gone
            self._store.set(key, json.dumps(told))


def await_all(store: Store, keys: Sequence[str], given_up: Callable[[], bool]) -> list[Any]:
    """What is told under these keys, once it is there. EngineError where one has failed, or nobody waits any more."""
    missing = list(keys)
    while missing := [key for key in missing if not store.check([key])]:
        if given_up():
            raise EngineError("a state was not written before its worker was lost")
        time.sleep(LOOK)
    found = [json.loads(store.get(key)) for key in keys]
    for key in keys:
        store.delete_key(key)
    if None in found:
        raise EngineError("a state could not be written")
    return found


def write_shard(folder: Path, weights: Weights, cut: Collection[str]) -> dict[str, Any]:
    """Write a shard's rows of the weights beside its state, for `take_shards`; returns what that must be told.

    cut: names of those of which it has not all rows; of all others it has the whole.
    """
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    parts = {name: stored(value).cpu().contiguous() for name, value in weights.items()}
    write_atomically(folder / PARTS, safetensors.torch.save(parts), durable=False)  # nobody reads it after the commit
    types = {name: str(value.dtype).removeprefix("torch.") for name, value in weights.items()}
    return {"cut": sorted(cut), "types": types}


def take_shards(folders: Sequence[Path], told: Mapping[str, Any]) -> Weights:
    """The whole weights, from what the shards of a replica have written, in their order; these are removed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folders = [Path(place, "0"), Path(place, "1")]
    ...     told = [write_shard(folder, {"w": torch.ones(2), "n": torch.tensor(3)}, ["w"]) for folder in folders]
    ...     take_shards(folders, told[0])
    {'w': tensor([1., 1., 1., 1.]), 'n': tensor(3)}
    """
    parts: list[dict[str, Tensor]] = [safetensors.torch.load_file(folder / PARTS) for folder in folders]
    whole: Weights = {}
    for name, dtype in told["types"].items():
        value = torch.cat([part[name] for part in parts]) if name in told["cut"] else parts[0][name].clone()
        whole[name] = unstored(value, getattr(torch, dtype)) if value.dtype != getattr(torch, dtype) else value
    for folder in folders:
        remove(folder / PARTS)
    return whole
