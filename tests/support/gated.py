"""A stream of twelve increments of eight rows that waits at gates, which a test opens when it has done what it will."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["Gates", "fed_job"]

FEED = """
import json, time
from pathlib import Path

def rows():
    here = Path(__file__)
    for day in range(12):
        while day in json.loads(here.with_name("gates.json").read_text()):
            here.with_name(f"at-{day}").touch()
            time.sleep(0.05)
        yield {"x": [day + 0.1 * i for i in range(8)], "y": [(day + i) % 2 for i in range(8)]}
"""
JOB = """
name = "fed"
[stream]
path = "feed:rows"
every = "file"
[features]
label = "y"
numeric = ["x"]
classes = [0, 1]
[learner]
objective = "binary"
[publish]
every = PUBLISH
"""


class Gates:
    """The increments before which the stream waits: by their numbers, from 0."""

    def __init__(self, folder: Path, closed: tuple[int, ...] = (5,)) -> None:
        self._path, self._closed = folder / "gates.json", list(closed)
        self._write()

    def open(self) -> None:
        """Open the first one that is closed."""
        del self._closed[0]
        self._write()

    @property
    def reached(self) -> bool:
        """Whether the stream waits at the first one that is closed."""
        return self._path.with_name(f"at-{self._closed[0]}").exists()

    def _write(self) -> None:
        aside = self._path.with_suffix(".new")
        aside.write_text(json.dumps(self._closed))
        aside.rename(self._path)


def fed_job(folder: Path, publish: int = 1) -> Path:
    """Write the job over that stream, which commits after so many increments; returns its path."""
    (folder / "feed.py").write_text(FEED)
    path = folder / "job.toml"
    path.write_text(JOB.replace("PUBLISH", str(publish)))
    return path
