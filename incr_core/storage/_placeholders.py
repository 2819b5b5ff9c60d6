"""Empty placeholders in working copies, which are downloaded from the run's store when they are read.

Downloaded files are never empty. An empty file outside of working copies is therefore damaged, not a placeholder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

__all__ = ["COPIES", "filled"]

COPIES: dict[Path, Callable[[Path], None]] = {}
"""The folders of working copies in this process, and the function that downloads a file of each."""


def filled(path: Path) -> bytes:
    """Return the content of a file that was found empty: downloaded in a working copy, otherwise no bytes.

    Example:
        >>> filled(Path("/dev/null"))
        b''
    """
    for folder, bring in COPIES.items():
        if path.is_relative_to(folder):
            bring(path)
            return path.read_bytes()
    return b""
