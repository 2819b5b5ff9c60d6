"""Writes a worker's state of a version while the worker continues to learn, and reports when it is on disk.

    worker     copies its state in memory and continues; a thread writes the copy, then reports through the store
    driver     waits for all reports, joins the whole weights from the parts of one replica, and commits

One state is written at a time. Each copy reuses the memory of the copy before.
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
"""Seconds between checks for the workers' reports."""

PARTS = "weights.safetensors"


class StateWriter:
    """A thread that writes one state at a time.

    Args:
        store: A connection that only this thread uses.
        patience: Seconds that the disk may take while the thread makes no progress.

    Example:
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
        """Write a state and report the result of `write` under the key in the store. The previous write must have
        ended."""
        self._thread = threading.Thread(target=self._write, args=(write, key), name="incr-writer", daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Wait until nothing is being written. Raises the error of a write that failed.

        While the writing thread makes progress, this thread reports that it is alive. After a long time without
        progress it stops, so the monitor of its heartbeat counts it as stuck.
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
        """CPU seconds of the writing thread, while there is one."""
        with suppress(OSError):
            return 0.0 if self._clock is None else time.clock_gettime(self._clock)
        return 0.0

    def _write(self, write: Callable[[], Mapping[str, Any]], key: str) -> None:
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        try:
            told: Mapping[str, Any] | None = write()
        except Exception as error:
            self._failed, told = error, None
        with suppress(RuntimeError):  # the driver is gone, and the store with it
            self._store.set(key, json.dumps(told))


def await_all(store: Store, keys: Sequence[str], given_up: Callable[[], bool]) -> list[Any]:
    """Return the values under these keys once they are there. Raises EngineError if one failed or waiting has ended."""
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
    """Write a shard's rows of the weights beside its state, for `take_shards`; return the information it needs.

    Args:
        cut: Names of the weights of which this shard has some rows. It has all rows of the others.
    """
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    parts = {name: stored(value).cpu().contiguous() for name, value in weights.items()}
    write_atomically(folder / PARTS, safetensors.torch.save(parts), durable=False)  # not needed after the commit
    types = {name: str(value.dtype).removeprefix("torch.") for name, value in weights.items()}
    return {"cut": sorted(cut), "types": types}


def take_shards(folders: Sequence[Path], told: Mapping[str, Any]) -> Weights:
    """Return the whole weights, joined from the files of a replica's shards in their order, and remove these files.

    Example:
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
