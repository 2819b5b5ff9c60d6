"""What differs between two versions of a run: weights, metrics, rows, verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from incr_core.errors import VersionError
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import count

__all__ = ["difference"]


def difference(path: str | Path, one: int, other: int) -> dict[str, Any]:
    """What lies between two versions, as JSON holds it.

    `weights`: for each, the largest change of an entry and the change's share of its norm; None where one of the two
    has none any more. `metrics`: prequential, up to each, (then, now). `rows`: learned after the first, up to the
    second. `lineage`: of each, the versions that it goes on from, newest first. `verdicts`: of the gate.

    Raises VersionError where there is no such version.
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
    """The version that was learned: of one that was restored, the one that it is again."""
    while (restored := manifests[version].get("restores")) is not None:
        version = restored
    return version


def _metrics(directory: RunDirectory, versions: list[int]) -> dict[str, list[float | None]]:
    """Of each version, also of one that was rolled back."""
    told = [directory.table("metrics", version, version, undone=True).to_pylist()[-1:] for version in versions]
    names = dict.fromkeys(name for rows in told for row in rows for name in row if name.startswith("total."))
    return {
        name.removeprefix("total."): [rows[0].get(name) if rows else None for rows in told] for name in names
    }  # fmt: skip


def _lineage(manifests: dict[int, dict[str, Any]], version: int) -> list[int]:
    """The versions before it that are still in it: behind one that was restored comes the one that it restores."""
    found, current = list[int](), manifests[version]
    while len(found) < MOST and (parent := current.get("restores", current.get("parent"))):
        found.append(parent)
        current = manifests[parent]
    return found


MOST = 20
"""Versions of a lineage that are told."""
