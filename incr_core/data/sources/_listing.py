"""Detection of new files and rows, and waiting for files that are still being written."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from incr_core.data.sources._file_source import FileSource
from incr_core.data.sources._fingerprint import size_in
from incr_core.data.sources._settling import is_growable, wait_for
from incr_core.data.sources._source import Source

__all__ = ["Listing", "await_files"]

_log = logging.getLogger("incr")


class Listing:
    """The files of a stream at the last check.

    Example:
        >>> from incr_core.data.sources import open_source
        >>> import tempfile, pathlib
        >>> folder = tempfile.TemporaryDirectory(); file = pathlib.Path(folder.name, "a.csv")
        >>> _ = file.write_text("x\\n1\\n"); listing = Listing()
        >>> [listing.is_new(open_source(folder.name)) for _ in range(2)]
        [True, False]
        >>> _ = file.write_text("x\\n1\\n2\\n"); listing.is_new(open_source(folder.name))
        True
        >>> folder.cleanup()
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._bad: set[tuple[str, str]] = set()

    def is_new(self, source: Source | None, bad: Iterable[tuple[str, str]] = ()) -> bool:
        """Whether a file is new, has grown at its end, or is a bad one that has changed.

        New files are known from then on.

        Args:
            source: The source.
            bad: Unusable files, and their fingerprints.
        """
        if not isinstance(source, FileSource):
            return False
        bad = set(bad)
        self._bad |= bad
        new = False
        for name in source.names:
            size = self._size(source, name)
            new |= name not in self._sizes or size > self._sizes[name]
            self._sizes[name] = size
        for name in {name for name, _ in bad}.intersection(source.names):
            now = (name, source.fingerprint(name) or "")
            new |= now not in self._bad
            self._bad.add(now)
        return new

    def _size(self, source: FileSource, name: str) -> int:
        if not is_growable(name, source.format_of(name)):
            return 0
        return size_in(source.fingerprint(name) or "0:")


def await_files(source: Source | None, settle: float) -> bool:
    """Wait until files that are still being written have settled; return whether there were any."""
    if source is None or not source.young:
        return False
    young = source.young
    shown = ", ".join(list(young)[:3]) + (", ..." if len(young) > 3 else "")
    _log.warning("stream: waiting until nothing writes to %s any more (stream.settle = %g s)", shown, settle)
    wait_for(young.values(), settle)
    return True
