"""Segments: the tables of many versions in a few immutable files, listed in an index that is replaced by a rename.

    DIR/segments.json                          the versions of each segment, and its files with their hashes
    DIR/TABLE/00000001-00000064.parquet        the rows that these versions added to a table

A fold puts the versions after the last segment into a new one, together with as many of the segments before it as are
less than twice as large. So sizes halve from the first to the last, like the bits of a number; a row is written again
each time sizes double, and a segment of LARGEST versions, or one that would be larger than LARGEST_BYTES, is not
rewritten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from incr_core.storage import (
    SCHEMA,
    checksummed,
    parquet_bytes,
    read_checksummed,
    read_table,
    read_verified,
    remove,
    sha256,
    storage,
    sync_all,
    write_atomically,
)

__all__ = ["INDEX", "MANIFESTS", "TABLES", "Segment", "Segments", "join", "read_index"]

INDEX = "segments.json"
TABLES = ("metrics", "ledger", "duplicates", "dropped", "quarantine", "events", "clients")

MANIFESTS = "manifests"
"""The table of the versions themselves: number, and manifest as text."""

LARGEST = 16384
LARGEST_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Segment:
    """The versions from `first` to `last`.

    Attributes:
        first: The first version.
        last: The last version.
        files: Table -> file, rows, bytes and sha256; tables without rows have none.

    Example:
        >>> Segment(33, 64, {}).versions
        32
    """

    first: int
    last: int
    files: Mapping[str, Mapping[str, Any]]

    @property
    def versions(self) -> int:
        """The number of versions."""
        return self.last - self.first + 1

    @property
    def size(self) -> int:
        """The total size of its files in bytes."""
        return sum(file["bytes"] for file in self.files.values())


def read_index(directory: Path) -> list[Segment]:
    """Return the segments of a run, in order.

    Example:
        >>> read_index(Path("/nowhere"))
        []
    """
    if not (directory / INDEX).exists():
        return []
    return [Segment(**segment) for segment in read_checksummed(directory / INDEX)["segments"]]


def join(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables; a column that is missing in some is null there.

    Example:
        >>> join([pa.table({"a": [1]}), pa.table({"b": [2]})]).to_pylist()
        [{'a': 1, 'b': None}, {'a': None, 'b': 2}]
    """
    full = [table.replace_schema_metadata(None) for table in tables if table.num_rows]
    return pa.concat_tables(full, promote_options="permissive") if full else pa.table({})


class Segments:
    """The segments of the run in `directory`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = Segments(Path(folder))
        ...     for version in (1, 2, 3):
        ...         manifest = pa.table({"version": [version], "manifest": ["{}"]})
        ...         found.fold(version, version, {"manifests": manifest, "metrics": pa.table({"auc": [0.5 + version]})})
        ...     rows = join(list(found.tables("metrics"))).num_rows
        ...     [(segment.first, segment.last) for segment in found.listed], rows
        ([(1, 2), (3, 3)], 3)
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.listed: list[Segment] = []

    @property
    def last(self) -> int:
        """The last version in a segment; 0 before the first."""
        return self.listed[-1].last if self.listed else 0

    def read(self) -> None:
        """Read the index again."""
        self.listed = read_index(self.directory)

    def tables(self, name: str, first: int = 1, last: int | None = None) -> Iterator[pa.Table]:
        """Yield the rows of a table for versions `first` to `last`, segment by segment."""
        for segment in self.listed:
            if segment.last < first or (last is not None and segment.first > last) or name not in segment.files:
                continue
            table = self.table(segment, name)
            if segment.first < first or (last is not None and last < segment.last):
                rows = self._rows(segment, name)
                begin = sum(rows[: max(first - segment.first, 0)])
                end = sum(rows if last is None else rows[: last - segment.first + 1])
                table = table.slice(begin, end - begin)
            yield table

    def table(self, segment: Segment, name: str) -> pa.Table:
        """Read the file of a segment, verified."""
        file = segment.files[name]
        path = self.directory / file["file"]
        return read_table(path.name, read_verified(path, file["sha256"], file["bytes"]))

    def _rows(self, segment: Segment, name: str) -> list[int]:
        """Return the number of rows of a table for each version of a segment."""
        if name == MANIFESTS:
            return [1] * segment.versions
        return [
            json.loads(text)["tables"].get(name, 0) for text in self.table(segment, MANIFESTS)["manifest"].to_pylist()
        ]

    def fold(self, first: int, last: int, tables: Mapping[str, pa.Table]) -> None:
        """Add more versions; after a kill, either none or all of the change is done."""
        taken = list[Segment]()
        versions, size = last - first + 1, sum(table.nbytes for table in tables.values())
        for before in reversed(self.listed):
            large = before.versions + versions > LARGEST or before.size + size > LARGEST_BYTES
            if before.versions >= 2 * versions or large:
                break
            taken.insert(0, before)
            versions, size = before.versions + versions, before.size + size
        names = dict.fromkeys([name for segment in taken for name in segment.files] + list(tables))
        whole = {
            name: join(
                [self.table(segment, name) for segment in taken if name in segment.files]
                + ([tables[name]] if name in tables else [])
            )
            for name in names
        }
        made = self._written(last - versions + 1, last, {name: table for name, table in whole.items() if len(table)})
        self._swap([*self.listed[: len(self.listed) - len(taken)], made])

    def rewrite(self, name: str, change: Callable[[pa.Table], tuple[pa.Table, int]]) -> int:
        """Change rows of a table; `change` returns their number. Return the total number for all segments.

        Only for an erasure: a segment is not changed otherwise.
        """
        found, rows = list[Segment](), 0
        for segment in self.listed:
            if name in segment.files:
                table, count = change(self.table(segment, name))
                rows += count
                if count:
                    again = self._written(segment.first, segment.last, {name: table})
                    segment = Segment(segment.first, segment.last, {**segment.files, **again.files})
            found.append(segment)
        if found != self.listed:
            self._swap(found)
        return rows

    def tidy(self) -> None:
        """Remove unfinished files, and those that no segment uses."""
        known = {file["file"] for segment in self.listed for file in segment.files.values()}
        for name in (MANIFESTS, *TABLES):
            for path in (self.directory / name).glob("*"):
                if f"{name}/{path.name}" not in known:
                    remove(path)

    def _written(self, first: int, last: int, tables: Mapping[str, pa.Table]) -> Segment:
        """Write and sync the files of a segment that is not in the index yet."""
        files, paths = dict[str, dict[str, Any]](), list[Path]()
        for name, table in tables.items():
            content = parquet_bytes(table)
            digest = sha256(content)
            path = self.directory / name / f"{first:08}-{last:08}-{digest[:8]}.parquet"
            with storage(path):
                path.parent.mkdir(exist_ok=True)
            write_atomically(path, content, durable=False)
            files[name] = {
                "file": f"{name}/{path.name}",
                "rows": table.num_rows,
                "bytes": len(content),
                "sha256": digest,
            }
            paths += [path, path.parent]
        with storage(self.directory):
            sync_all([*paths, self.directory])
        return Segment(first, last, files)

    def _swap(self, segments: list[Segment]) -> None:
        document = {"schema": SCHEMA, "segments": [asdict(segment) for segment in segments]}
        write_atomically(self.directory / INDEX, checksummed(document))
        self.listed = segments
        self.tidy()
