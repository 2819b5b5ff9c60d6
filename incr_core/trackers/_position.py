"""Positions of trackers that do not keep their own: DIR/trackers/NAME.json."""

from __future__ import annotations

import json
import re
from pathlib import Path

from incr_core.storage import expose, exposed, storage, write_atomically

__all__ = ["read_position", "write_position"]


def read_position(directory: Path, name: str) -> int:
    """Return the last version that a tracker was given; 0 before the first.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     before = read_position(Path(folder), "module:Class")
        ...     write_position(Path(folder), "module:Class", 3)
        ...     before, read_position(Path(folder), "module:Class")
        (0, 3)
    """
    content = exposed(_path(directory, name))
    return 0 if content is None else int(json.loads(content)["version"])


def write_position(directory: Path, name: str, version: int) -> None:
    """Record that a tracker was given the commits up to a version."""
    path = _path(directory, name)
    with storage(path):
        path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps({"tracker": name, "version": version}).encode() + b"\n")
    expose(path)


def _path(directory: Path, name: str) -> Path:
    return directory / "trackers" / (re.sub(r"[^\w.]", "-", name) + ".json")
