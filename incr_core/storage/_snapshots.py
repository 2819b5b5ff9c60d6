"""Snapshots: the objects of a store that are the files of a run, at every commit of its writer.

    ADDRESS/manifest/00000042    {"number": 42, "base": 33, "files": {path: [object, bytes], ...}, "gone": [path, ...]}

A manifest is created exclusively: of two writers that continue from number 41, the store lets one create number 42.
Numbers therefore have no gaps, and the newest manifest is found by testing for the next number, without listing. Every
`WHOLE` manifests, and at the first commit of each writer, a manifest lists all files (its `base` is its own number);
the others list changes only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from incr_core.storage._integrity import SCHEMA, checksummed, parse_checksummed
from incr_core.storage._object_store import ObjectStore

__all__ = ["Snapshot", "Snapshots"]

WHOLE = 32
"""Maximum number of manifests that a reader has to read."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a run by path: the object of each, and its size in bytes. Number 0 has none."""

    number: int = 0
    base: int = 0
    files: Mapping[str, tuple[str, int]] = field(default_factory=dict)


class Snapshots:
    """The manifests of a run in a store.

    Example:
        >>> snapshots = Snapshots(ObjectStore("memory://doc/snapshots"))
        >>> one = snapshots.add(Snapshot(), {"job.toml": ("objects/a/1/job.toml", 7)}, {"pid": 7})
        >>> one.number, snapshots.newest().files == one.files
        (1, True)
        >>> snapshots.add(Snapshot(), {}, {"pid": 8}) is None  # another writer was faster
        True
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def newest(self, known: Snapshot | None = None) -> Snapshot:
        """Return the newest snapshot; `known` is an earlier one, to start from."""
        known = known or Snapshot()
        number = self._last(known.number)
        if number == known.number:
            return known
        last = self._document(number, self._store.get(_name(number)))
        base = last["base"]
        first = known.number + 1 if known.number and known.base == base else base
        between = self._store.get_all([_name(one) for one in range(first, number)])
        files = dict(known.files) if first > base else {}
        for one in range(first, number + 1):
            document = last if one == number else self._document(one, between[_name(one)])
            for path in document["gone"]:
                files.pop(path, None)
            files |= {path: (place, size) for path, (place, size) in document["files"].items()}
        return Snapshot(number, base, files)

    def writer(self, number: int) -> Mapping[str, Any]:
        """Return the writer of a manifest."""
        found: Mapping[str, Any] = self._document(number, self._store.get(_name(number)))["writer"]
        return found

    def add(
        self,
        before: Snapshot,
        files: Mapping[str, tuple[str, int]],
        writer: Mapping[str, Any],
        *,
        whole: bool = False,
    ) -> Snapshot | None:
        """Create the successor of `before`; return None if another writer has created it."""
        number = before.number + 1
        base = number if whole or not before.number or number - before.base >= WHOLE else before.base
        changed = files if base == number else {path: at for path, at in files.items() if before.files.get(path) != at}
        document = {
            "schema": SCHEMA,
            "number": number,
            "base": base,
            "writer": dict(writer),
            "files": {path: list(at) for path, at in changed.items()},
            "gone": [] if base == number else [path for path in before.files if path not in files],
        }
        made = self._store.create(_name(number), checksummed(document))
        return Snapshot(number, base, dict(files)) if made else None

    def _last(self, known: int) -> int:
        """Return the largest existing number, given a known one (or 0), by doubling steps and then halving them."""
        step = 1
        while self._store.exists(_name(known + step)):
            known, step = known + step, 2 * step
        while step > 1:
            step //= 2
            if self._store.exists(_name(known + step)):
                known += step
        return known

    def _document(self, number: int, content: bytes | None) -> dict[str, Any]:
        return parse_checksummed(content or b"", f"{self._store.address}/{_name(number)}")


def _name(number: int) -> str:
    return f"manifest/{number:08}"
