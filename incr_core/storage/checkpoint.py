"""Save nested state without loss, and refuse it when a single byte has changed.

On disk a checkpoint is a folder of two files: tensors in safetensors, everything else in `state.json`, which
names the tensors file by its hash and carries its own checksum. So replacing `state.json` by a rename is the
one moment at which a new state takes the place of the old.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from incr_core.storage._atomic import storage, sync, sync_all, write_atomically
from incr_core.storage._integrity import SCHEMA, checksummed, read_checksummed, read_verified, sha256
from incr_core.storage.packing import pack, unpack

__all__ = ["load", "save", "save_packed", "settle", "tidy", "unsynced"]


def save(path: str | Path, state: Any, **manifest: Any) -> None:
    """Save a state in the folder `path`, replacing the one there in a single step.

    `manifest` is JSON-able and comes back beside the state. A kill at any moment leaves the old state or the
    new one. Raises StorageError when the disk refuses, CheckpointError for a leaf that cannot be kept.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/learner", {"weight": torch.ones(2)}, version=3)
    ...     load(f"{folder}/learner")
    ({'weight': tensor([1., 1.])}, {'version': 3})
    """
    save_packed(path, *pack(state), **manifest)


def save_packed(path: str | Path, tensors: Mapping[str, Tensor], structure: Any, **manifest: Any) -> None:
    """Save what `pack` has made of a state; otherwise as `save`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_packed(f"{folder}/learner", *pack({"increments": 3}))
    ...     load(f"{folder}/learner")
    ({'increments': 3}, {})
    """
    folder = Path(path)
    replaces = (folder / "state.json").exists()
    written = _write(folder, tensors, structure, manifest, durable=replaces)
    if replaces:
        with storage(folder):
            sync(folder.parent)
    else:
        # Where there was no state, none is lost by a new one that a loss of power cuts: all may go to the disk at once.
        settle(written)


def settle(paths: Sequence[Path]) -> None:
    """Wait until files and folders are on the disk; inside `unsynced`, leave them to who syncs afterwards.

    >>> settle([Path(".")])
    """
    later = _later.get()
    if later is not None:
        later += paths
        return
    for path in paths[:1]:
        with storage(path):
            sync_all(paths)


@contextlib.contextmanager
def unsynced() -> Iterator[list[Path]]:
    """Inside, new states are saved without waiting for the disk; gives the files and folders to sync afterwards.

    For states that nothing refers to before something else is on the disk too, with which they go there at once. Of
    this thread only; whoever saves in another process of this host may leave what it has written to it (`settle`).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, unsynced() as later:
    ...     save(f"{folder}/learner", {"increments": 3})
    ...     [path.suffix for path in later]
    ['.safetensors', '.json', '', '']
    """
    later: list[Path] = []
    token = _later.set(later)
    try:
        yield later
    finally:
        _later.reset(token)


_later: ContextVar[list[Path] | None] = ContextVar("later", default=None)


def _write(
    folder: Path, tensors: Mapping[str, Tensor], structure: Any, manifest: dict[str, Any], *, durable: bool
) -> list[Path]:
    content = safetensors.torch.save(dict(tensors))
    digest = sha256(content)
    name = f"tensors-{digest[:16]}.safetensors"
    document = {
        "schema": SCHEMA,
        "manifest": manifest,
        "tensors": {"file": name, "bytes": len(content), "sha256": digest},
        "state": structure,
    }
    described = checksummed(document)  # which refuses what JSON cannot hold, before anything is written
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / name, content, durable=durable)
    write_atomically(folder / "state.json", described, durable=durable)
    _remove_others(folder, name)
    return [folder / name, folder / "state.json", folder, folder.parent]


def tidy(path: str | Path) -> None:
    """Remove tensors that a kill has left beside the state in a folder: those of an older or of an unfinished one."""
    folder = Path(path)
    _remove_others(folder, read_checksummed(folder / "state.json")["tensors"]["file"])


def _remove_others(folder: Path, name: str) -> None:
    with storage(folder):
        for stale in folder.glob("tensors-*.safetensors"):
            if stale.name != name:
                stale.unlink()


def load(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """Load `(state, manifest)` from a folder written by `save`.

    Raises CheckpointError naming the file when one is missing, truncated or changed by as little as a bit, or
    was written by another schema version.

    >>> load("/nowhere/learner")
    Traceback (most recent call last):
    ...
    incr_core.errors.CheckpointError: /nowhere/learner/state.json: expected a file, found none; ...
    """
    folder = Path(path)
    document = read_checksummed(folder / "state.json")
    stored = document["tensors"]
    content = read_verified(folder / stored["file"], stored["sha256"], stored["bytes"])
    return unpack(safetensors.torch.load(content), document["state"]), document["manifest"]
