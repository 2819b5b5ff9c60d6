"""Reading all that a run has committed, without modifying it, and detection of inconsistencies."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from incr_core.errors import CheckpointError
from incr_core.registry import ledger as ledgers
from incr_core.registry._commit import COMMIT, MODEL, STATE, has_weights, read_commit
from incr_core.registry._difference import difference_of
from incr_core.registry._history import UNDONE, manifest_table
from incr_core.registry._segments import INDEX, MANIFESTS, TABLES, Segments, join
from incr_core.registry._violation import Violation
from incr_core.storage import numbers_in, read_archive, read_verified

__all__ = ["Committed"]

_RESTORE = "restore it from a copy of the run"
_DERIVED = f"delete {INDEX}: the next command on the run, `incr versions` for one, writes it again from the versions"

Tables = dict[str, pa.Table]


@dataclass(slots=True)
class Committed:
    """The versions of a run, and their tables.

    Attributes:
        versions: The numbers of the versions.
        tables: Table name -> the rows that all versions together have added.
        violations: Versions and segments that cannot be verified, tables that do not belong to their version, and
            segments
            that contradict a version that still has a folder.

    Example:
        >>> Committed.read(Path("/nowhere")).versions
        []
    """

    versions: list[int]
    tables: Tables = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    @classmethod
    def read(cls, directory: Path) -> Committed:
        """Read all data and verify every hash; commits made at the same time are tolerated."""
        segments, found = Segments(directory), cls([])
        try:
            segments.read()
        except CheckpointError as error:
            found._wrong(directory / INDEX, "the index as it was written", _what(error), _RESTORE)
        folders = numbers_in(directory / "versions")
        whole = not segments.listed or folders[: segments.last] == [*range(1, segments.last + 1)]
        by_version = found._segments(segments, _DERIVED if whole else _RESTORE)
        numbers = {number for segment in segments.listed for number in range(segment.first, segment.last + 1)}
        found.versions = sorted({*numbers, *folders})
        for place, number in enumerate(found.versions, 1):
            if number != place:
                got = f"version {number} after version {place - 1}"
                found._wrong(directory / "versions", f"version {place}", got, _RESTORE)
                break
        for number in folders:
            own = found._folder(directory / "versions" / str(number), number)
            if number in by_version and own is not None:
                manifests = found._manifests(segments, number)
                found._compare(manifests, number, by_version[number], own, _DERIVED if whole else _RESTORE)
            by_version.setdefault(number, own or {})
        for number, tables in sorted(by_version.items()):
            found._count(directory / "versions" / str(number), number, tables)
        undone = _undone(by_version[found.versions[-1]]) if found.versions else set[int]()
        found.tables = {
            name: join(
                [
                    tables[name]
                    for number, tables in sorted(by_version.items())
                    if name in tables and not (name in UNDONE and number in undone)
                ]
            )
            for name in TABLES
        }
        return found

    def _wrong(self, place: Path, expected: str, got: str, remedy: str) -> None:
        self.violations.append(Violation(str(place), expected, got, remedy))

    def _manifests(self, segments: Segments, version: int) -> Path:
        """Return the file of a segment that contains the manifests."""
        [segment] = [segment for segment in segments.listed if segment.first <= version <= segment.last]
        return segments.directory / str(segment.files[MANIFESTS]["file"])

    def _segments(self, segments: Segments, remedy: str) -> dict[int, Tables]:
        """Return the tables of each version in segments, without those whose file is damaged."""
        found: dict[int, Tables] = {}
        for segment in segments.listed:
            tables: Tables = {}
            for name, file in segment.files.items():
                try:
                    tables[name] = segments.table(segment, name)
                except CheckpointError as error:
                    place = segments.directory / file["file"]
                    self._wrong(place, f"SHA-256 {file['sha256'][:16]}... as committed", _what(error), remedy)
            if tables.keys() == segment.files.keys():
                found |= self._divided(segments.directory / segment.files[MANIFESTS]["file"], tables)
        return found

    def _divided(self, place: Path, tables: Tables) -> dict[int, Tables]:
        """Divide the tables of a segment by version, using the row counts in its manifests."""
        found: dict[int, Tables] = {}
        begin = dict.fromkeys(tables, 0)
        for row, entry in enumerate(tables[MANIFESTS].to_pylist()):
            number, rows = entry["version"], json.loads(entry["manifest"])["tables"]
            found[number] = {name: table.slice(begin[name], rows.get(name, 0)) for name, table in tables.items()}
            found[number][MANIFESTS] = tables[MANIFESTS].slice(row, 1)
            begin = {name: start + rows.get(name, 0) for name, start in begin.items()}
        for name, table in tables.items():
            if name != MANIFESTS and begin[name] != len(table):
                expected = f"{begin[name]:,} rows of {name}, as its manifests say"
                self._wrong(place, expected, f"{len(table):,}", _RESTORE)
        return found

    def _folder(self, folder: Path, number: int) -> Tables | None:
        """Return the verified tables in a version's own folder; None if it cannot be read."""
        try:
            manifest, tables = read_commit(folder)
        except CheckpointError as error:
            self._wrong(folder / COMMIT, "the manifest and tables as committed", _what(error), _RESTORE)
            return None
        if has_weights(folder):
            for file, digest in manifest["files"].items():
                try:
                    read_verified(folder / file, digest)
                except CheckpointError as error:
                    self._wrong(folder / file, f"SHA-256 {digest[:16]}... as committed", _what(error), _RESTORE)
            if (folder / STATE).exists():
                try:
                    read_archive(folder / STATE)
                except CheckpointError as error:
                    self._wrong(folder / STATE, "the loop's state as committed", _what(error), _RESTORE)
            if not any(str(folder) in wrong.place for wrong in self.violations):
                from incr_core.registry._version import read_version

                try:
                    read_version(folder)
                except CheckpointError as error:
                    self._wrong(folder / MODEL, "the weights as committed", str(error), _RESTORE)
        return {MANIFESTS: manifest_table(manifest), **tables}

    def _count(self, folder: Path, number: int, tables: Tables) -> None:
        """Check that several tables of a version are consistent."""
        place = folder / COMMIT
        if MANIFESTS not in tables:
            return
        manifest = json.loads(tables[MANIFESTS]["manifest"][0].as_py())
        for key, value in {"version": number, "parent": number - 1 or None}.items():
            if manifest.get(key) != value:
                self._wrong(place, f"{key} {value}", str(manifest.get(key)), _RESTORE)
        for name in ("ledger", "duplicates", "dropped"):
            table = tables.get(name)
            if table is None or not table.num_rows:
                continue
            if (others := set(table["version"].to_pylist()) - {number}) and name == "ledger":
                got = f"entries of version {', '.join(map(str, sorted(others)))}"
                self._wrong(place, f"entries of version {number} alone in {name}", got, _RESTORE)
            entry, start, stop = ledgers.flat(table)
            summed = np.bincount(entry, stop - start, len(table)).astype(np.int64)
            for row in np.flatnonzero(summed != table["rows"].to_numpy())[:1].tolist():
                got = f"{table['rows'][row].as_py()} in `rows`"
                where = f"entry {row} of {name} ({table['fragment'][row].as_py()})"
                self._wrong(place, f"{summed[row]} rows, those of the ranges, in {where}", got, _RESTORE)
        told = {"the manifest": manifest["rows"]}
        metrics = tables.get("metrics")
        if metrics is not None and "rows_labelled" in metrics.column_names:
            told["metrics"] = int(metrics["rows_labelled"].to_numpy().sum())
        held = ledgers.count(tables["ledger"]) if "ledger" in tables else None
        for source, rows in told.items():
            if held is not None and rows != held:
                expected = f"{rows:,} rows in the ledger, as {source} of version {number} says"
                self._wrong(place, expected, f"{held:,}", _RESTORE)

    def _compare(self, place: Path, number: int, folded: Tables, own: Tables, remedy: str) -> None:
        """Check that a segment and the folder of a version have the same data."""
        for name in (MANIFESTS, *TABLES):
            table, summed = (join([tables.get(name, pa.table({}))]) for tables in (folded, own))
            if (difference := difference_of(table, summed)) is not None:
                self._wrong(place, f"{len(summed):,} rows of {name}, those of version {number}", difference, remedy)


def _undone(newest: Tables) -> set[int]:
    """Return the versions that were rolled back, according to the newest one."""
    if MANIFESTS not in newest:
        return set()
    spans = json.loads(newest[MANIFESTS]["manifest"][0].as_py()).get("undone", [])
    return {number for first, last in spans for number in range(first, last + 1)}


def _what(error: CheckpointError) -> str:
    """Return the fault without its place and remedy."""
    return str(error).partition(": ")[2].rpartition("; ")[0].rpartition("found ")[2]
