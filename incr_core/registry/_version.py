"""One committed version: a folder of weights, tables and a manifest that knows the hash of each."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor

from incr_core.errors import ArgumentError, CheckpointError, VersionError
from incr_core.numerics import stored, unstored
from incr_core.storage import (
    SCHEMA,
    arrow_bytes,
    checksummed,
    model_sha256,
    parquet_bytes,
    read_checksummed,
    read_table,
    read_verified,
    sha256,
    write_atomically,
    write_folder,
)
from incr_core.storage.packing import pack, unpack

__all__ = [
    "has_weights",
    "is_intact",
    "read_extra_state",
    "read_manifest",
    "read_part",
    "read_version",
    "rewrite_part",
    "write_version",
]

_MODEL, _EXTRA = "model.safetensors", "extra_state.safetensors"


def write_version(
    folder: Path,
    weights: Mapping[str, Tensor],
    tables: Mapping[str, pa.Table],
    own: Mapping[str, Any],
    manifest: Mapping[str, Any],
    extra_state: Mapping[str, Any] | None = None,
) -> None:
    """Make the folder of a version appear, whole or not at all.

    `tables` are named by file, *.parquet or *.arrow. What the registry sets (`own`) and what others add
    (`manifest`) make up manifest.json, with the hashes; a name in both is an ArgumentError. Complex numbers that
    safetensors has no name for lie in the file as pairs of real ones, and the manifest says under `pairs` which.
    `extra_state` is nested state that is no weight: its tensors lie in a file of their own, the rest in the manifest.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = Path(name, "1")
    ...     tables = {"metrics.parquet": pa.table({"auc": [0.7]})}
    ...     write_version(folder, {"w": torch.ones(2)}, tables, {"version": 1}, {"name": "2013-01-01"})
    ...     weights, manifest = read_version(folder)
    ...     weights, manifest["name"], read_part(folder, "metrics.parquet").num_rows
    ({'w': tensor([1., 1.])}, '2013-01-01', 1)
    """
    files = {_MODEL: safetensors.torch.save(_on_cpu(weights))}
    for name, table in tables.items():
        files[name] = parquet_bytes(table) if name.endswith(".parquet") else arrow_bytes(table)
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
        **({"pairs": pairs} if pairs else {}),
        **({"extra_state": structure} if structure is not None else {}),
    }
    if taken := sorted(document.keys() & manifest.keys()):
        raise ArgumentError(f"manifest: {', '.join(taken)}: set by the registry; use other names")
    write_folder(folder, {**files, "manifest.json": checksummed({**document, **manifest})})


def read_version(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and manifest of a version, verified byte for byte.

    >>> read_version(Path("/nowhere/versions/1"))
    Traceback (most recent call last):
    ...
    incr_core.errors.CheckpointError: /nowhere/versions/1/manifest.json: expected a file, found none; ...
    """
    manifest = read_manifest(folder)
    weights = safetensors.torch.load(read_verified(folder / _MODEL, manifest["files"][_MODEL]))
    for name, dtype in manifest.get("pairs", {}).items():
        weights[name] = unstored(weights[name], getattr(torch, dtype))
    if (found := model_sha256(weights)) != manifest["model_sha256"]:
        raise CheckpointError(f"{folder / _MODEL}: expected model_sha256 {manifest['model_sha256']}, found {found}")
    return weights, manifest


def read_extra_state(folder: Path) -> dict[str, Any]:
    """The state of a version that is no weight, verified; {} where there is none.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = Path(name, "1")
    ...     write_version(folder, {}, {}, {"version": 1}, {}, {"model.0": {"calls": 3}})
    ...     read_extra_state(folder)
    {'model.0': {'calls': 3}}
    """
    manifest = read_manifest(folder)
    if "extra_state" not in manifest:
        return {}
    tensors = safetensors.torch.load(read_verified(folder / _EXTRA, manifest["files"][_EXTRA]))
    state: dict[str, Any] = unpack(tensors, manifest["extra_state"])
    return state


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a version, verified.

    >>> read_manifest(Path("/nowhere/versions/1"))
    Traceback (most recent call last):
    ...
    incr_core.errors.CheckpointError: /nowhere/versions/1/manifest.json: expected a file, found none; ...
    """
    return read_checksummed(folder / "manifest.json")


def read_part(folder: Path, file: str) -> pa.Table:
    """One of a version's own tables, verified; for an example see `write_version`."""
    hashes = read_manifest(folder)["files"]
    if file not in hashes:
        raise VersionError(f"{folder}: no {file}; there are {', '.join(hashes)}")
    return read_table(file, read_verified(folder / file, hashes[file]))


def rewrite_part(folder: Path, file: str, change: Callable[[pa.Table], tuple[pa.Table, int]]) -> None:
    """Change some rows of a version's table; `change` says how many, and where it is none nothing is written.

    A kill between table and manifest leaves a table that is not the manifest's; the same call puts that right.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = Path(name, "1")
    ...     write_version(folder, {}, {"quarantine.parquet": pa.table({"value": ["n/a"]})}, {"version": 1}, {})
    ...     rewrite_part(folder, "quarantine.parquet", lambda table: (pa.table({"value": ["gone"]}), 1))
    ...     read_part(folder, "quarantine.parquet")["value"].to_pylist()
    ['gone']
    """
    manifest = read_manifest(folder)
    table, count = change(read_table(file, (folder / file).read_bytes()))
    if count:
        content = parquet_bytes(table)
        manifest["files"][file] = sha256(content)
        write_atomically(folder / file, content)
        write_atomically(folder / "manifest.json", checksummed(manifest))


def has_weights(folder: Path) -> bool:
    """Whether a version is there, and not pruned.

    >>> has_weights(Path("/nowhere/versions/1"))
    False
    """
    return (folder / _MODEL).exists()


def is_intact(folder: Path) -> bool:
    """Whether every byte of a version's weights and manifest is as committed.

    >>> is_intact(Path("/nowhere/versions/1"))
    False
    """
    try:
        read_version(folder)
    except CheckpointError:
        return False
    return True


def _on_cpu(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Cloned, because tied weights share memory and safetensors stores each name on its own.
    return {
        name: stored(weight.detach()).cpu().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        for name, weight in weights.items()
    }
