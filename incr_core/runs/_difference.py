"""Differences between two versions of a run: weights, metrics, rows, verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from incr_core.errors import VersionError
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import count

__all__ = ["difference"]


def difference(path: str | Path, one: int, other: int) -> dict[str, Any]:
    """Return the differences between two versions as a document for JSON.

    Returns:
        weights: For each weight, the largest change of an entry, and the norm of the change relative to the weight's
            norm. None if one of the two versions no longer has its weights.
        metrics: Prequential metrics up to each version, (then, now).
        rows: Rows learned after the first version and up to the second.
        lineage: For each version, its preceding versions, newest first.
        verdicts: Verdicts of the gate.

    Raises:
        VersionError: There is no such version.
    """
    directory = RunDirectory.open(path)
    manifests = {found["version"]: found for found in directory.versions()}
    for version in (one, other):
        if version not in manifests:
            raise VersionError(f"{path}: no version {version}; there are versions 1 to {len(manifests)}")
    first, last = sorted((one, other))
    rows = directory.table("ledger", first + 1, last)
    whole = manifests[one]["has_weights"] and manifests[other]["has_weights"]
    return {
        "versions": [one, other],
        "after": [manifests[version]["name"] for version in (one, other)],
        "same_model": manifests[one]["model_sha256"] == manifests[other]["model_sha256"],
        "rows": count(rows) if rows.num_rows else 0,
        "weights": _weights(directory, one, other) if whole else None,
        "metrics": _metrics(directory, [_learned(manifests, version) for version in (one, other)]),
        "verdicts": [manifests[version].get("gate") for version in (one, other)],
        "lineage": [_lineage(manifests, version) for version in (one, other)],
    }


def _weights(directory: RunDirectory, one: int, other: int) -> dict[str, dict[str, float]]:
    before, after = directory.load(one)[0], directory.load(other)[0]
    found = {}
    for name, value in after.items():
        if name in before and value.shape == before[name].shape and value.numel():
            old = before[name].double() if not value.is_complex() else before[name]
            change = (value.double() if not value.is_complex() else value) - old
            norm = float(old.norm())
            found[name] = {"most": float(change.abs().max()), "share": float(change.norm()) / norm if norm else 0.0}
    return found


def _learned(manifests: dict[int, dict[str, Any]], version: int) -> int:
    """Return the version that was learned: for a version that restores another, the restored one."""
    while (restored := manifests[version].get("restores")) is not None:
        version = restored
    return version


def _metrics(directory: RunDirectory, versions: list[int]) -> dict[str, list[float | None]]:
    """Metrics of each version, including versions that were rolled back."""
    told = [directory.table("metrics", version, version, undone=True).to_pylist()[-1:] for version in versions]
    names = dict.fromkeys(name for rows in told for row in rows for name in row if name.startswith("total."))
    return {
        name.removeprefix("total."): [rows[0].get(name) if rows else None for rows in told] for name in names
    }  # fmt: skip


def _lineage(manifests: dict[int, dict[str, Any]], version: int) -> list[int]:
    """Return the versions that precede a version. A version that restores another is followed by that one."""
    found, current = list[int](), manifests[version]
    while len(found) < MOST and (parent := current.get("restores", current.get("parent"))):
        found.append(parent)
        current = manifests[parent]
    return found


MOST = 20
"""Versions of a lineage that are included."""
