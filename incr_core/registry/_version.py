"""One committed version: a folder with the weights, and one archive of all small data.

    model.safetensors          the weights
    commit.zip                 manifest.json, and the rows that the commit adds to each of the run's tables
    extra_state.safetensors    the state of modules besides tensors, if there is any
    NAME.arrow                 tables kept as long as the weights: history, the outcomes that rates need
    state.zip                  the loop's state, to resume from this version; only in the last two versions

The archive contains its own hash, and the manifest the hashes of the other files.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor

from incr_core.errors import ArgumentError, CheckpointError, VersionError
from incr_core.numerics import stored, unstored
from incr_core.registry._commit import COMMIT, MODEL, STATE, commit_bytes, read_commit
from incr_core.storage import (
    SCHEMA,
    archive_bytes,
    arrow_bytes,
    checksummed,
    model_sha256,
    parse_checksummed,
    read_archive,
    read_table,
    read_verified,
    sha256,
    write_folder,
)
from incr_core.storage.packing import pack, unpack

__all__ = [
    "is_intact",
    "read_extra_state",
    "read_extra_table",
    "read_state",
    "read_version",
    "write_version",
]

_EXTRA = "extra_state.safetensors"


def write_version(
    folder: Path,
    weights: Mapping[str, Tensor],
    tables: Mapping[str, pa.Table],
    own: Mapping[str, Any],
    manifest: Mapping[str, Any],
    *,
    extra: Mapping[str, pa.Table] | None = None,
    extra_state: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
    needed: Sequence[Path] = (),
) -> dict[str, Any]:
    """Create the folder of a version atomically; return its manifest.

    Complex numbers without a name in safetensors are stored as pairs of real numbers, and the manifest lists them under
    `pairs`.

    Args:
        folder: The folder.
        weights: The weights.
        tables: The rows to add to the run's tables.
        own: The entries of the manifest set by the registry; hashes and row counts are added.
        manifest: The other entries of the manifest; a name in both is an ArgumentError.
        extra: Tables stored beside the weights.
        extra_state: Nested state that is not a weight: its tensors are stored in a separate file, the rest in the
            manifest.
        state: The loop's state, from which to resume.
        needed: Files that must be synced before the version exists.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name, "1")
        ...     tables = {"metrics": pa.table({"auc": [0.7]})}
        ...     written = write_version(folder, {"w": torch.ones(2)}, tables, {"version": 1}, {"name": "2013-01-01"})
        ...     weights, manifest = read_version(folder)
        ...     weights, manifest["name"], manifest["tables"], manifest == written
        ({'w': tensor([1., 1.])}, '2013-01-01', {'metrics': 1}, True)
    """
    files = {MODEL: safetensors.torch.save(_on_cpu(weights))}
    files |= {f"{name}.arrow": arrow_bytes(table) for name, table in (extra or {}).items()}
    pairs = {
        name: str(value.dtype).removeprefix("torch.") for name, value in weights.items() if stored(value) is not value
    }
    structure = None
    if extra_state:
        tensors, structure = pack(extra_state)
        files[_EXTRA] = safetensors.torch.save(tensors)
    document = {
        "schema": SCHEMA,
        **own,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "model_sha256": model_sha256(weights),
        "files": {name: sha256(content) for name, content in files.items()},
        "tables": {name: table.num_rows for name, table in tables.items()},
        **({"pairs": pairs} if pairs else {}),
        **({"extra_state": structure} if structure is not None else {}),
    }
    if taken := sorted(document.keys() & manifest.keys()):
        raise ArgumentError(f"manifest: {', '.join(taken)}: set by the registry; use other names")
    document |= manifest
    files[COMMIT] = commit_bytes(document, tables)
    if state is not None:
        tensors, structure = pack(state)
        content = checksummed({"schema": SCHEMA, "state": structure})
        files[STATE] = archive_bytes({"state.json": content, "tensors.safetensors": safetensors.torch.save(tensors)})
    write_folder(folder, files, needed)
    return document


def read_version(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights and manifest of a version, verified byte for byte."""
    manifest, _ = read_commit(folder)
    weights = safetensors.torch.load(read_verified(folder / MODEL, manifest["files"][MODEL]))
    for name, dtype in manifest.get("pairs", {}).items():
        weights[name] = unstored(weights[name], getattr(torch, dtype))
    if (found := model_sha256(weights)) != manifest["model_sha256"]:
        raise CheckpointError(f"{folder / MODEL}: expected model_sha256 {manifest['model_sha256']}, found {found}")
    return weights, manifest


def read_extra_state(folder: Path) -> dict[str, Any]:
    """Read the state of a version that is not a weight, verified; {} if there is none.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name, "1")
        ...     told = write_version(folder, {}, {}, {"version": 1}, {}, extra_state={"model.0": {"calls": 3}})
        ...     read_extra_state(folder)
        {'model.0': {'calls': 3}}
    """
    manifest, _ = read_commit(folder)
    if "extra_state" not in manifest:
        return {}
    tensors = safetensors.torch.load(read_verified(folder / _EXTRA, manifest["files"][_EXTRA]))
    state: dict[str, Any] = unpack(tensors, manifest["extra_state"])
    return state


def read_extra_table(folder: Path, name: str) -> pa.Table:
    """Read one of the tables beside a version's weights, verified."""
    files, file = read_commit(folder)[0]["files"], f"{name}.arrow"
    if file not in files:
        raise VersionError(f"{folder}: no {file}; there are {', '.join(files)}")
    return read_table(file, read_verified(folder / file, files[file]))


def read_state(folder: Path) -> Any:
    """Read the loop's state at a version, verified.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name, "1")
        ...     told = write_version(folder, {}, {}, {"version": 1}, {}, state={"increments": 3})
        ...     read_state(folder)
        {'increments': 3}
    """
    files = read_archive(folder / STATE)
    document = parse_checksummed(files["state.json"], folder / STATE)
    return unpack(safetensors.torch.load(files["tensors.safetensors"]), document["state"])


def is_intact(folder: Path) -> bool:
    """Return whether every byte of a version's weights and manifest is as committed.

    Example:
        >>> is_intact(Path("/nowhere/versions/1"))
        False
    """
    try:
        read_version(folder)
    except CheckpointError:
        return False
    return True


def _on_cpu(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Cloned, because tied weights share memory and safetensors stores each name separately.
    return {
        name: stored(weight.detach()).cpu().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        for name, weight in weights.items()
    }
