"""A source: where rows are, as numbered fragments (files, or the tables of a Python iterable).

A number never changes: what is found later gets later numbers, so row ids stay valid while a source grows.
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
    """Rows appended to a file: the file's number, and the offsets in it of their first row and of their first byte."""

    file: int
    row: int
    byte: int


class Source(ABC):
    """Fragments by number, and what a run remembers of those that it has read.

    local: what times without a zone mean. names: the fragments by number, as far as they are known. fingerprints: what
    each was when it was first read; one that has changed since is rejected, since its rows are not those that were
    learned. appended: rows appended to files since then. young: files that are still being written. closed: whether
    `resume` leaves for later what was found since.
    """

    def __init__(self, local: LocalTime | None = None) -> None:
        self.local = local
        self.names: list[str] = []
        self.fingerprints: dict[str, str] = {}
        self.appended: list[Appended] = []
        self.young: dict[str, File] = {}
        self.closed = False

    def begin(self) -> None:
        """A run starts from the first row: drop what an earlier one has read."""
        self.fingerprints, self.appended = {}, []

    @abstractmethod
    def resume(
        self,
        names: Sequence[str],
        fingerprints: Mapping[str, str],
        appended: Sequence[Sequence[int]] = (),
        rejected: Mapping[str, tuple[str, int]] | None = None,
    ) -> list[int]:
        """Give the fragments of an earlier run the numbers they had; returns the numbers of those found since.

        rejected: fragment -> the fingerprint of its file when it could not be used; None where what is found since is
        not wanted. Raises StreamError where a file of that run has changed.
        """

    @abstractmethod
    def head(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Some rows of the first fragment that has any, to look at."""

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
        """The fragments in the order of numbers, found late after others, or, with a `time` column, of their first
        times.

        skip: fragments no longer needed; their files may be gone.
        floors: fragment -> a time; no row of that fragment counts as earlier (it was found late).
        origin: the time of a fragment none of whose rows has one. leap: a time that `leaps` further does not count.
        on_bad_file: called with those whose times cannot be read, which are left out; None: that is raised.
        """

    def name_of(self, number: int) -> str:
        """The name of the file that a fragment is, or was appended to."""
        return self.names[number]

    def fingerprint(self, name: str) -> str | None:
        """The fingerprint of a fragment's file as it is now: None where it is gone, "" where it cannot be opened."""
        return ""

    def drop_fingerprint(self, number: int) -> None:
        """Take back that a fragment was read: it cannot be used as it is now, and may be when it has changed."""
        self.fingerprints.pop(self.name_of(number), None)

    def gone(self) -> frozenset[int]:
        """The numbers of fragments that are not there any more."""
        return frozenset()
