"""Fingerprints: fast hashes that detect rewritten files and changed tables, as SIZE:HASH."""

from __future__ import annotations

import hashlib

import numpy as np

from incr_core.data.sources._remote_file import File, RemoteFile

__all__ = ["change_between", "file_fingerprint", "size_in"]

SLICES = 16
"""Number of file slices that are hashed, evenly spaced, including the first and the last bytes (a Parquet file's
footer).
"""

SLICE = 4096
"""Bytes per slice."""


def file_fingerprint(path: File, size: int | None = None) -> str:
    """Return the size of a file and a hash of slices of it: SIZE:HASH. Up to 64 KiB the whole file is hashed.

    A modification time would be faster, but copies and checkouts change it for identical files. For an object in a
    store whose format cannot grow, the fingerprint is the size and the store's own tag.

    Args:
        path: The file.
        size: Treat the file as if it ended after this many bytes.

    Example:
        >>> from pathlib import Path
        >>> file_fingerprint(Path("/dev/null"))
        '0:e4a6a0577479b2b4'
    """
    if isinstance(path, RemoteFile):
        whole = path.stat().st_size
        if size is None and not path.lines:
            return f"{whole}:{path.mark()}"
        size = whole if size is None else size
        found = hashlib.blake2b(b"".join(path.slices(_ranges(size))), digest_size=8)
        return f"{size}:{found.hexdigest()}"
    found = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        size = file.seek(0, 2) if size is None else size
        for start, stop in _ranges(size):
            file.seek(start)
            found.update(file.read(stop - start))
    return f"{size}:{found.hexdigest()}"


def _ranges(size: int) -> list[tuple[int, int]]:
    """Return the byte ranges [start, stop) that are hashed."""
    if size <= SLICES * SLICE:
        return [(0, size)]
    return [(start, start + SLICE) for start in np.linspace(0, size - SLICE, SLICES).astype(int).tolist()]


def size_in(fingerprint: str) -> int:
    """Return the bytes of the file, or rows of the table, with this fingerprint.

    Example:
        >>> size_in("12:e4a6a0577479b2b4")
        12
    """
    return int(fingerprint.partition(":")[0])


def change_between(before: str, now: str, unit: str) -> str:
    """Describe the difference between two fingerprints of a file or a table, for error messages.

    Example:
        >>> change_between("1200:e4a6a0577479b2b4", "1300:0a57747e4a69b2b4", "bytes")
        '1,200 bytes then, 1,300 now'
    """
    old, new = size_in(before), size_in(now)
    return f"{old:,} {unit} then, {new:,} now" if old != new else f"{new:,} {unit} as then, but others"
