"""A source of rows as numbered fragments (files, or the tables of a Python iterable).

Invariant: a number never changes. Fragments found later get higher numbers, so row ids stay valid while a source grows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from incr_core.data._local_time import LocalTime
from incr_core.data.sources._fragment import Fragment
from incr_core.data.sources._remote_file import File

__all__ = ["Appended", "Source"]


class Appended(NamedTuple):
    """Rows appended to a file: the file's number, and the offsets of their first row and first byte in it."""

    file: int
    row: int
    byte: int


class Source(ABC):
    """Numbered fragments, and a run's record of those that it has read.

    Args:
        local: Meaning of times without a zone.

    Attributes:
        names: Known fragments, by number.
        fingerprints: Fingerprint of each when it was first read; a changed fragment is rejected, because its rows are
            not those that were learned.
        appended: Rows appended to files since.
        young: Files that are still being written.
        closed: Whether `resume` leaves new fragments for later.
    """

    def __init__(self, local: LocalTime | None = None) -> None:
        self.local = local
        self.names: list[str] = []
        self.fingerprints: dict[str, str] = {}
        self.appended: list[Appended] = []
        self.young: dict[str, File] = {}
        self.closed = False

    def begin(self) -> None:
        """Start from the first row: discard the record of an earlier run."""
        self.fingerprints, self.appended = {}, []

    @abstractmethod
    def resume(
        self,
        names: Sequence[str],
        fingerprints: Mapping[str, str],
        appended: Sequence[Sequence[int]] = (),
        rejected: Mapping[str, tuple[str, int]] | None = None,
    ) -> list[int]:
        """Number the fragments of an earlier run as before; return the numbers of fragments found since.

        Args:
            names: Names of the run's fragments, by number.
            fingerprints: Their fingerprints.
            appended: Appended rows of the run.
            rejected: Fingerprints of the files of unusable fragments; None ignores new rows.

        Raises:
            StreamError: A file of that run has changed.
        """

    @abstractmethod
    def head(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return some rows of the first non-empty fragment, for inspection."""

    @abstractmethod
    def fragments(
        self,
        time: str | None = None,
        *,
        skip: frozenset[int] = frozenset(),
        floors: dict[int, int] | None = None,
        origin: int | None = None,
        leap: int | None = None,
        on_bad_file: Callable[[Fragment, int, Exception], None] | None = None,
    ) -> Iterator[Fragment]:
        """Yield the fragments by number, with late ones last; or, with a `time` column, by their first time.

        Args:
            time: The time column.
            skip: Fragments that are no longer needed; their files may not exist.
            floors: Earliest time of the rows of late fragments.
            origin: Time of a fragment without times.
            leap: Times that leap ahead by more than this are ignored (`leaps`).
            on_bad_file: Called with fragments whose times cannot be read, which are skipped; None raises the error.
        """

    def name_of(self, number: int) -> str:
        """Return the name of a fragment's file, or of the file to which it was appended."""
        return self.names[number]

    def fingerprint(self, name: str) -> str | None:
        """Return the current fingerprint of a fragment's file: None if it does not exist, "" if it cannot be opened."""
        return ""

    def drop_fingerprint(self, number: int) -> None:
        """Mark a fragment as unread: it is unusable now, and may become usable when it changes."""
        self.fingerprints.pop(self.name_of(number), None)

    def gone(self) -> frozenset[int]:
        """Return the numbers of fragments that no longer exist."""
        return frozenset()
