"""Files that are still being written: detection, waiting, and detection of growth at the end.

CSV and JSON lines have no end marker, so a recently written file waits. Parquet and Arrow files end in a footer: a file
with a footer is complete, however recent; a file without one waits too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from incr_core.data import times as clock
from incr_core.data.sources._fingerprint import file_fingerprint, size_in
from incr_core.data.sources._remote_file import File, RemoteFile

__all__ = ["SETTLE", "grew", "is_growable", "is_young", "seconds", "wait_for"]

SETTLE = "10s"
"""Default time since the last write after which a file is read."""

ENDINGS = {"parquet": (b"PAR1", b"PARE"), "arrow": (b"ARROW1", b"FEA1", b"\xff\xff\xff\xff\0\0\0\0")}
"""The last bytes of complete files; an Arrow stream, which has no footer, ends in eight fixed bytes."""


def seconds(settle: str) -> float:
    """Return the seconds of a duration, which may be "0s".

    Example:
        >>> seconds("10s"), seconds("0s")
        (10.0, 0.0)
    """
    return 0.0 if settle.strip() == "0s" else clock.duration(settle, "stream.settle") / clock.SECOND


def is_young(path: File, format: str | None, settle: float) -> bool:
    """Whether a file of this format may still be being written: modified within `settle` seconds and not complete.

    A modification time further in the future than that indicates a wrong clock, not a recent write. An object in a
    store is complete as soon as it exists.

    Example:
        >>> is_young(Path("/dev/null"), "csv", 0.0)
        False
    """
    if isinstance(path, RemoteFile):
        return False
    try:
        return abs(time.time() - path.stat().st_mtime) < settle and not _is_whole(path, format)
    except OSError:  # missing or unreadable: reading reports it
        return False


def _is_whole(path: Path, format: str | None) -> bool:
    endings = ENDINGS.get(format or "")
    if endings is None:
        return False
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - 8))
        return file.read().endswith(endings)


def wait_for(young: Iterable[File], settle: float) -> None:
    """Wait until young files have settled, if no process writes to them meanwhile."""
    until = max((_settled_at(path, settle) for path in young), default=0.0)
    # Clocks may differ by less than `settle`.
    time.sleep(min(max(until - time.time(), 0.0), 2 * settle))


def _settled_at(path: File, settle: float) -> float:
    try:
        return path.stat().st_mtime + settle
    except OSError:
        return 0.0


def is_growable(name: str, format: str | None) -> bool:
    """Whether rows appended to such a file can be read separately.

    Example:
        >>> is_growable("a.csv", "csv"), is_growable("a.csv.gz", "csv"), is_growable("a.parquet", "parquet")
        (True, False, False)
    """
    return format in ("csv", "jsonl") and not name.lower().endswith(".gz")


def grew(path: File, fingerprint: str) -> bool:
    """Whether a file has this fingerprint followed by more content that begins on a new line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "a.csv"); _ = file.write_text("x\\n1\\n"); before = file_fingerprint(file)
        ...     _ = file.write_text("x\\n1\\n2\\n"); one = grew(file, before)
        ...     _ = file.write_text("x\\n1\\n"); before = file_fingerprint(file); _ = file.write_text("x\\n2\\n2\\n")
        ...     one, grew(file, before)
        (True, False)
    """
    size = size_in(fingerprint)
    if path.stat().st_size <= size or file_fingerprint(path, size) != fingerprint:
        return False
    with path.open("rb") as file:
        file.seek(max(size - 1, 0))
        edge = file.read(2)
    # Otherwise the last row was incomplete then.
    return size == 0 or edge[:1] in b"\r\n" or edge[1:] in (b"\r", b"\n")
