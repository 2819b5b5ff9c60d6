"""The champion of a run, followed while it changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from incr_core.errors import IncrError
from incr_core.registry import champion_of
from incr_core.runs import Version
from incr_core.serving._asked import Asked, ask
from incr_core.storage import located

__all__ = ["Champion"]

PERIOD = 0.1
"""Seconds between two checks for another champion."""

AGAIN = 5.0
"""Seconds after which a champion that could not be read is tried again."""

TOLD = ("version", "model_sha256", "created", "increment", "name", "rows")
"""Keys of a version's manifest that a server reports."""


class Champion:
    """The champion of a run directory. It is loaded again when a version is published or rolled back to.

    If the new version cannot be read, the old one continues to answer and `fault` contains the reason. Each request
    reads `current` once, so one version answers the whole request, and no request waits for a version to be loaded.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = located(directory)
        self.fault: str | None = None
        self.swaps = 0
        self.current = Asked(Version.load(directory))
        self._looking = threading.Lock()
        self._begin: Callable[[Asked], None] = lambda asked: None
        self._failed: int | None = None
        self._tried = 0.0
        self._ended = threading.Event()

    @property
    def required(self) -> list[str]:
        """The columns that every row must have. A request without one of them is refused."""
        return self.current.required

    def look(self) -> Version:
        """Load the champion if it has changed. Return the version that answers from now on."""
        with self._looking:
            number = self.current.version.number
            published = champion_of(self.directory)
            if published is None:
                self.fault = f"{self.directory}: has no champion any more; version {number} goes on answering"
            elif published == number:
                self.fault = None
            elif published != self._failed or time.monotonic() - self._tried > AGAIN:
                self._read(published)
            return self.current.version

    def tell(self, begin: Callable[[Asked], None]) -> None:
        """Call `begin` with the current version now, and with each later version before it answers."""
        with self._looking:
            self._begin = begin
            begin(self.current)

    def _read(self, number: int) -> None:
        try:
            asked = Asked(Version.load(self.directory, number))
            self._begin(asked)
            self.current = asked
            self.swaps += 1
            self.fault, self._failed = None, None
        except IncrError as error:
            self.fault, self._failed, self._tried = str(error), number, time.monotonic()

    def predict(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return an answer for each row, or null and the reason if the row cannot be used.

        Raises:
            StreamError: The rows do not have the model's columns, or values of another kind.
        """
        return ask([self.current.question(rows)])[0]

    def describe(self) -> dict[str, Any]:
        """Return the reported keys of the current version's manifest."""
        manifest = self.current.version.manifest
        return {name: manifest[name] for name in TOLD}

    def follow(self) -> threading.Thread:
        """Start a thread that checks for another champion until `close`."""

        def look() -> None:
            while not self._ended.wait(PERIOD):
                try:
                    self.look()
                except Exception as error:  # a store or a disk that cannot be reached: the next check tries again
                    self.fault = str(error)

        thread = threading.Thread(target=look, name="champion", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Stop checking for another champion."""
        self._ended.set()
