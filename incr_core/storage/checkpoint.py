"""Lossless saving of nested state, with detection of any changed byte.

On disk a checkpoint is a folder of two files: tensors in safetensors, and the rest in `state.json`, which names the
tensor file by its hash and contains its own checksum. The rename of `state.json` is therefore the single moment at
which a new state replaces the old.
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
    """Save a state in the folder `path`, replacing the previous one atomically.

    A kill at any moment leaves the old state or the new one.

    Args:
        path: The folder.
        state: The state; see `pack`.
        manifest: JSON-compatible values that are returned beside the state.

    Raises:
        StorageError: The disk cannot be written.
        CheckpointError: A leaf has an unsupported type.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/learner", {"weight": torch.ones(2)}, version=3)
        ...     load(f"{folder}/learner")
        ({'weight': tensor([1., 1.])}, {'version': 3})
    """
    save_packed(path, *pack(state), **manifest)


def save_packed(path: str | Path, tensors: Mapping[str, Tensor], structure: Any, **manifest: Any) -> None:
    """Save the result of `pack`; otherwise as `save`.

    Example:
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
        # If there was no state, a power loss during the write loses nothing: all files can be synced at once.
        settle(written)


def settle(paths: Sequence[Path]) -> None:
    """Wait until files and folders are on disk; inside `unsynced`, only record them.

    Example:
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
    """Save states without waiting for the disk inside the context; yields the files and folders to sync afterwards.

    It serves states that nothing refers to before something else is on disk too, with which they are synced together.
    It applies to this thread only; another process of this host can leave the syncing of its files to this one
    (`settle`).

    Example:
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
    described = checksummed(document)  # raises for values that JSON cannot represent, before anything is written
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / name, content, durable=durable)
    write_atomically(folder / "state.json", described, durable=durable)
    _remove_others(folder, name)
    return [folder / name, folder / "state.json", folder, folder.parent]


def tidy(path: str | Path) -> None:
    """Remove tensor files that a kill has left beside the state in a folder."""
    folder = Path(path)
    _remove_others(folder, read_checksummed(folder / "state.json")["tensors"]["file"])


def _remove_others(folder: Path, name: str) -> None:
    with storage(folder):
        for stale in folder.glob("tensors-*.safetensors"):
            if stale.name != name:
                stale.unlink()


def load(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """Load `(state, manifest)` from a folder written by `save`.

    Raises:
        CheckpointError: A file is missing, truncated or changed, or has another schema version.

    Example:
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
