"""Backpressure from the folder: bytes that have landed and that no run has learned are bounded."""

from __future__ import annotations

from pathlib import Path

from incr_core.errors import IncrError
from incr_core.ingest._landing import LandingTable
from incr_core.registry import RunDirectory

__all__ = ["LOOK", "Room"]

LOOK = 0.5
"""Seconds between looks at the folder and the run while the limit is reached."""


class Room:
    """Limit on the bytes of a table's files that are not learned.

    Args:
        limit: Bytes of a table from which nothing more lands; None sets no limit.
        run: Run directory; files of which it has learned rows do not count. Without one, all files count.

    Example:
        >>> import tempfile, pyarrow as pa
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = LandingTable(Path(folder), "people"); _ = table.land([pa.record_batch({"x": [1]})], {})
        ...     Room(None).free(table), Room(10).free(table)
        (True, False)
    """

    def __init__(self, limit: int | None = None, run: str | None = None) -> None:
        self._limit, self._run = limit, run
        self._version = 0
        self._learned: set[str] = set()

    def free(self, table: LandingTable) -> bool:
        """Whether more may land."""
        if self._limit is None:
            return True
        sizes = {}
        for path in table.files().values():
            try:
                sizes[path.name] = path.stat().st_size
            except FileNotFoundError:  # removed meanwhile
                continue
        if sum(sizes.values()) < self._limit:
            return True
        self._look()
        return sum(size for name, size in sizes.items() if name not in self._learned) < self._limit

    def _look(self) -> None:
        """Add the files of which the run has learned rows since the last look."""
        if self._run is None:
            return
        try:
            directory = RunDirectory.open(self._run)
            latest = directory.latest() or 0
            if latest < self._version:  # rolled back: rows learned since are pending again
                self._learned, self._version = set(), 0
            if latest == self._version:
                return
            ledger = directory.table("ledger", self._version + 1, latest)
        except IncrError:  # not begun yet, or being written
            return
        if ledger.num_rows:
            self._learned |= {Path(name).name for name in ledger["fragment"].unique().to_pylist()}
        self._version = latest
