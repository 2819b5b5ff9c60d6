"""The committed data of a run: its versions and their tables, in segments and in the folders of later versions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from incr_core.errors import CheckpointError
from incr_core.registry._commit import COMMIT, read_commit, rewrite_table
from incr_core.registry._segments import MANIFESTS, TABLES, Segments, join, read_index
from incr_core.storage import numbers_in

__all__ = ["FOLD", "TRIES", "UNDONE", "History", "manifest_table"]

FOLD = 32
"""The number of versions after the last segment that make a new segment."""

UNDONE = frozenset({"metrics", "ledger", "duplicates", "dropped", "quarantine", "clients"})
"""Tables in which versions that were rolled back do not count."""

TRIES = 5
"""The number of attempts to read a run that is written at the same time."""


def manifest_table(manifest: Mapping[str, Any]) -> pa.Table:
    """Return the manifest of a version as a row of the table of manifests.

    Example:
        >>> manifest_table({"version": 3, "rows": 10}).to_pylist()
        [{'version': 3, 'manifest': '{"version": 3, "rows": 10}'}]
    """
    return pa.table({"version": [manifest["version"]], "manifest": [json.dumps(manifest)]})


class History:
    """The versions of the run in `directory`, and the rows they have added to its tables.

    Versions up to the last segment are read from segments, later ones from their folders. Only the tables of the later
    ones
    are kept in memory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.segments = Segments(directory)
        self.latest = 0
        self.undone: list[list[int]] = []  # first and last of versions that were rolled back, in order
        self._behind: dict[int, dict[str, pa.Table]] = {}

    def survey(self) -> list[int]:
        """Read the current files; return the versions that have a folder."""
        self.segments.read()
        folders = numbers_in(self.directory / "versions")
        self.latest = max([self.segments.last, *folders[-1:]])
        self._behind = {}
        self.undone = self._undone()
        return folders

    def _undone(self) -> list[list[int]]:
        """Return the ranges of undone versions recorded by the newest version."""
        if not self.latest:
            return []
        rows = self._table(MANIFESTS, self.latest, self.latest)
        found: list[list[int]] = json.loads(rows["manifest"][0].as_py()).get("undone", []) if len(rows) else []
        return found

    @property
    def behind(self) -> range:
        """The versions after the last segment."""
        return range(self.segments.last + 1, self.latest + 1)

    def committed(self, manifest: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> None:
        """Record the commit of the next version."""
        self.latest = manifest["version"]
        self.undone = manifest.get("undone", [])
        self._behind[self.latest] = {MANIFESTS: manifest_table(manifest), **tables}

    def fold(self) -> None:
        """Fold all versions into segments."""
        if self.behind:
            tables = {name: join([self._of(version, name) for version in self.behind]) for name in (MANIFESTS, *TABLES)}
            self.segments.fold(
                self.behind[0], self.latest, {name: table for name, table in tables.items() if len(table)}
            )
            self._behind = {}

    def table(self, name: str, first: int = 1, last: int | None = None, *, undone: bool = False) -> pa.Table:
        """Return the rows that versions `first` to `last` have added to a table, in order; `undone` includes undone
        versions.
        """
        read = self._table if undone else self._counting
        for _ in range(TRIES):
            try:
                return read(name, first, last)
            except CheckpointError:
                # The writer of the run may have merged segments, or folded versions and removed their folders.
                if read_index(self.directory) == self.segments.listed:
                    raise
                self.survey()
        return read(name, first, last)

    def _counting(self, name: str, first: int, last: int | None) -> pa.Table:
        if name not in UNDONE or not self.undone:
            return self._table(name, first, last)
        found, last = list[pa.Table](), last or self.latest
        for begin, end in [*self.undone, (last + 1, last)]:
            if first < begin:
                found.append(self._table(name, first, min(begin - 1, last)))
            first = max(first, end + 1)
        return join(found)

    def _table(self, name: str, first: int, last: int | None) -> pa.Table:
        behind = [version for version in self.behind if first <= version <= (last or self.latest)]
        return join([*self.segments.tables(name, first, last), *(self._of(version, name) for version in behind)])

    def _of(self, version: int, name: str) -> pa.Table:
        """Return the rows that a version after the last segment adds to a table."""
        if version not in self._behind:
            manifest, tables = read_commit(self.folder(version))
            self._behind[version] = {MANIFESTS: manifest_table(manifest), **tables}
        return self._behind[version].get(name, pa.table({}))

    def manifests(self, first: int = 1, last: int | None = None) -> list[dict[str, Any]]:
        """Return the manifests of all versions, or of a range, oldest first."""
        table = self.table(MANIFESTS, first, last)
        return [json.loads(text) for text in table["manifest"].to_pylist()] if table.num_rows else []

    def stored(self, name: str) -> Iterator[tuple[Path, pa.Table]]:
        """Yield every file with rows of a table, and its verified rows; a row may be in both a folder and a segment."""
        for segment in self.segments.listed:
            if name in segment.files:
                yield self.directory / segment.files[name]["file"], self.segments.table(segment, name)
        for version in numbers_in(self.directory / "versions"):
            tables = read_commit(self.folder(version))[1]
            if name in tables:
                yield self.folder(version) / COMMIT, tables[name]

    def rewrite(self, name: str, change: Callable[[pa.Table], tuple[pa.Table, int]]) -> int:
        """Change rows of a table in all files, for an erasure; `change` returns their number. Return the total number.

        After an interruption, repeat the call.
        """
        for version in numbers_in(self.directory / "versions"):
            rewrite_table(self.folder(version), name, change)
        self._behind = {}
        rows = self.segments.rewrite(name, change)
        return rows + sum(change(table)[1] for version in self.behind if len(table := self._of(version, name)))

    def folder(self, version: int) -> Path:
        """Return the folder of a version, which need not exist."""
        return self.directory / "versions" / str(version)
