"""What a run has committed, read without changing a byte of it, and what of that does not hold together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from incr_core.errors import CheckpointError
from incr_core.registry import ledger as ledgers
from incr_core.registry._run_directory import TABLES
from incr_core.registry._version import has_weights, read_manifest, read_version
from incr_core.registry._violation import Violation
from incr_core.storage import GrowingTable, numbers_in, read_table, sha256

__all__ = ["Committed"]

_RESTORE = "restore it from a copy of the run"
_DERIVED = "delete it: the next command on the run, `incr versions` for one, writes it anew from the versions"


@dataclass(slots=True)
class Committed:
    """The versions of a run, and their tables.

    versions: their numbers. tables: by name, the parts of all versions together. violations: manifests and hashes that
    do not verify, parts that are not their version's, and whole tables that are not the sum of the parts.
    """

    versions: list[int]
    tables: dict[str, pa.Table] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    @classmethod
    def read(cls, directory: Path) -> Committed:
        """Read it all, and verify every hash; a run that is being written meanwhile is taken as it is."""
        # Before the versions: whatever a whole table goes up to is among those.
        wholes = {name: GrowingTable.written(directory / f"{name}.parquet") for name in TABLES}
        found = cls(numbers_in(directory / "versions"))
        parts: dict[str, list[tuple[int, pa.Table]]] = {name: [] for name in TABLES}
        for place, number in enumerate(found.versions, 1):
            if number != place:
                got = f"version {number} after version {place - 1}"
                found._wrong(directory / "versions", f"version {place}", got, _RESTORE)
                break
        for number in found.versions:
            found._verify(directory / "versions" / str(number), number, parts, wholes)
        for name, pieces in parts.items():
            tables = [table for _, table in pieces]
            found.tables[name] = pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
            found._compare(directory / f"{name}.parquet", wholes[name], pieces)
        return found

    def _wrong(self, place: Path, expected: str, got: str, remedy: str) -> None:
        self.violations.append(Violation(str(place), expected, got, remedy))

    def _verify(
        self,
        folder: Path,
        number: int,
        parts: dict[str, list[tuple[int, pa.Table]]],
        wholes: dict[str, tuple[int, pa.Table] | None],
    ) -> None:
        """One version: its manifest, the hash of each of its files, and its rows."""
        try:
            manifest = read_manifest(folder)
        except CheckpointError as error:
            got = str(error).removeprefix(f"{folder / 'manifest.json'}: ")
            self._wrong(folder / "manifest.json", "the manifest as it was committed", got, _RESTORE)
            return
        own = {"version": number, "parent": number - 1 or None}
        for key, value in own.items():
            if manifest.get(key) != value:
                self._wrong(folder / "manifest.json", f"{key} {value}", str(manifest.get(key)), _RESTORE)
        mine: dict[str, pa.Table] = {}
        for file, digest in manifest["files"].items():
            path = folder / file
            if file.endswith((".safetensors", ".arrow")) and not has_weights(folder):
                continue  # pruned
            got, content = _content(path)
            if content is not None and sha256(content) != digest:
                got = f"{sha256(content)[:16]}..."
            if got:
                self._wrong(path, f"SHA-256 {digest[:16]}... as committed", got, _RESTORE)
            name = path.stem
            if path.suffix == ".parquet" and name in parts:
                table = _parsed(path.name, content)
                if table is None:
                    table = _of_version(wholes[name], number)
                if table is not None:
                    parts[name].append((number, table))
                    mine[name] = table
        if has_weights(folder) and not any(str(folder) in wrong.place for wrong in self.violations):
            try:
                read_version(folder)
            except CheckpointError as error:
                self._wrong(folder / "model.safetensors", "the weights as committed", str(error), _RESTORE)
        self._count(folder, number, manifest, mine)

    def _count(self, folder: Path, number: int, manifest: dict[str, Any], mine: dict[str, pa.Table]) -> None:
        """What several files of a version say of it must be the same."""
        for name in ("ledger", "duplicates"):
            table = mine.get(name)
            if table is None or not table.num_rows:
                continue
            if (others := set(table["version"].to_pylist()) - {number}) and name == "ledger":
                got = f"entries of version {', '.join(map(str, sorted(others)))}"
                self._wrong(folder / f"{name}.parquet", f"entries of version {number} alone", got, _RESTORE)
            entry, start, stop = ledgers.flat(table)
            summed = np.bincount(entry, stop - start, len(table)).astype(np.int64)
            for place in np.flatnonzero(summed != table["rows"].to_numpy())[:1].tolist():
                got = f"{table['rows'][place].as_py()} in `rows`"
                where = f"entry {place} ({table['fragment'][place].as_py()})"
                expected = f"{summed[place]} rows, those of the ranges, in {where}"
                self._wrong(folder / f"{name}.parquet", expected, got, _RESTORE)
        told = {"the manifest": manifest["rows"]}
        metrics = mine.get("metrics")
        if metrics is not None and "rows_labelled" in metrics.column_names:
            told["metrics.parquet"] = int(metrics["rows_labelled"].to_numpy().sum())
        held = ledgers.count(mine["ledger"]) if "ledger" in mine else None
        for place, rows in told.items():
            if held is not None and rows != held:
                expected = f"{rows:,} rows, as {place} of version {number} says"
                self._wrong(folder / "ledger.parquet", expected, f"{held:,}", _RESTORE)

    def _compare(self, path: Path, whole: tuple[int, pa.Table] | None, pieces: list[tuple[int, pa.Table]]) -> None:
        """A whole table is the sum of the parts of the versions up to the one that it names."""
        if whole is None:
            if path.exists():
                self._wrong(path, "a whole Parquet file", "one that cannot be read", _DERIVED)
            return
        upto, table = whole
        tables = [part for number, part in pieces if number <= upto and part.num_rows]
        summed = pa.concat_tables(tables, promote_options="permissive") if tables else table.slice(0, 0)
        if (row := _first_difference(table, summed)) is not None:
            expected = f"{len(summed):,} rows, those of the versions up to {upto}"
            got = f"{len(table):,}, of which row {row} is {_shown(table, row)} where the versions say "
            self._wrong(path, expected, got + _shown(summed, row), _DERIVED)


def _content(path: Path) -> tuple[str, bytes | None]:
    """What is wrong with reading a file, if anything, and its bytes."""
    try:
        return "", path.read_bytes()
    except OSError as error:
        return f"none: {error.strerror}", None


def _parsed(name: str, content: bytes | None) -> pa.Table | None:
    try:
        return None if content is None else read_table(name, content)
    except (OSError, pa.ArrowException):
        return None


def _of_version(whole: tuple[int, pa.Table] | None, number: int) -> pa.Table | None:
    """In place of a part that cannot be read: what the whole table has of its version."""
    if whole is None or "version" not in whole[1].column_names:
        return None
    return whole[1].filter(np.equal(whole[1]["version"].to_numpy(), number))


def _first_difference(one: pa.Table, other: pa.Table) -> int | None:
    """The first row in which two tables differ; None where they are the same."""
    rows = min(len(one), len(other))
    first = rows if len(one) != len(other) else None
    if rows and set(one.column_names) != set(other.column_names):
        return 0
    for name in one.column_names if rows else ():
        mine, theirs = one[name].slice(0, rows), other[name].slice(0, rows)
        if mine.type != theirs.type or not mine.equals(theirs):
            found = next((row for row in range(rows) if not _same(mine[row].as_py(), theirs[row].as_py())), None)
            first = found if first is None else first if found is None else min(first, found)
    return first


def _same(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))  # NaN is NaN here


def _shown(table: pa.Table, row: int) -> str:
    if row >= len(table):
        return "nothing"
    values = {name: value for name, value in table.slice(row, 1).to_pylist()[0].items() if value is not None}
    return ", ".join(f"{name} {value}" for name, value in list(values.items())[:5])
