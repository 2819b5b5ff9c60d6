"""Files that are still being written: which wait until they have settled, and whether one only grew at its end.

CSV and JSON lines do not say whether they are whole, so one that was written to a moment ago waits. Parquet and Arrow
files end in a footer: one that has it is whole, however young; one that lacks it waits as long.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from incr_core.data import times as clock
from incr_core.data.sources._fingerprint import mark_of, size_in

__all__ = ["SETTLE", "grew", "is_growable", "is_young", "seconds", "wait_for"]

SETTLE = "10s"
"""How long a file must not have been written to, by default."""

ENDINGS = {"parquet": (b"PAR1", b"PARE"), "arrow": (b"ARROW1", b"FEA1", b"\xff\xff\xff\xff\0\0\0\0")}
"""The last bytes of whole files; an Arrow stream without a footer ends in a mark of its own."""


def seconds(settle: str) -> float:
    """The seconds in a duration; "0s" is none.

    >>> seconds("10s"), seconds("0s")
    (10.0, 0.0)
    """
    return 0.0 if settle.strip() == "0s" else clock.duration(settle, "stream.settle") / clock.SECOND


def is_young(path: Path, kind: str | None, settle: float) -> bool:
    """Whether a file of this kind may still be being written: changed within `settle` seconds, and not known to be
    whole.

    A time of change ahead of ours by more than that is no news, but a wrong clock.

    >>> is_young(Path("/dev/null"), "csv", 0.0)
    False
    """
    try:
        return abs(time.time() - path.stat().st_mtime) < settle and not _is_whole(path, kind)
    except OSError:  # gone, or not ours to read: whoever reads it will say so
        return False


def _is_whole(path: Path, kind: str | None) -> bool:
    endings = ENDINGS.get(kind or "")
    if endings is None:
        return False
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - 8))
        return file.read().endswith(endings)


def wait_for(young: Iterable[Path], settle: float) -> None:
    """Wait until files that are young have settled, if nobody writes to them meanwhile."""
    until = max((_settled_at(path, settle) for path in young), default=0.0)
    # Clocks may differ, by less than `settle`.
    time.sleep(min(max(until - time.time(), 0.0), 2 * settle))


def _settled_at(path: Path, settle: float) -> float:
    try:
        return path.stat().st_mtime + settle
    except OSError:
        return 0.0


def is_growable(name: str, kind: str | None) -> bool:
    """Whether rows may be appended to such a file, and be read from there.

    >>> is_growable("a.csv", "csv"), is_growable("a.csv.gz", "csv"), is_growable("a.parquet", "parquet")
    (True, False, False)
    """
    return kind in ("csv", "jsonl") and not name.lower().endswith(".gz")


def grew(path: Path, mark: str) -> bool:
    """Whether the file is the one that had this mark, and more behind it, from a new line on.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "a.csv"); _ = file.write_text("x\\n1\\n"); before = mark_of(file)
    ...     _ = file.write_text("x\\n1\\n2\\n"); one = grew(file, before)
    ...     _ = file.write_text("x\\n1\\n"); before = mark_of(file); _ = file.write_text("x\\n2\\n2\\n")
    ...     one, grew(file, before)
    (True, False)
    """
    size = size_in(mark)
    if path.stat().st_size <= size or mark_of(path, size) != mark:
        return False
    with open(path, "rb") as file:
        file.seek(max(size - 1, 0))
        edge = file.read(2)
    # Else the row that was last then was not whole.
    return size == 0 or edge[:1] in b"\r\n" or edge[1:] in (b"\r", b"\n")
