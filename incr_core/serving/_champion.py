"""The champion of a run that is asked, whichever version that is by now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from incr_core.data.timeline import columns_asked
from incr_core.errors import IncrError
from incr_core.registry import champion_of
from incr_core.runs import Version
from incr_core.serving._asked import Asked, ask
from incr_core.storage import located

__all__ = ["Champion"]

PERIOD = 0.1
"""Seconds between two looks at which version is the champion."""

AGAIN = 5.0
"""Seconds after which a champion that could not be read is tried again."""

TOLD = ("version", "model_sha256", "created", "increment", "name", "rows")
"""What of a version's manifest is told of it."""


class Champion:
    """The champion of a run directory, read anew when another one is published or rolled back to.

    Where the new one cannot be read, the old one goes on answering and `fault` says why. Who answers takes `current`
    once for each request, so a request is answered by one version, and never waits for the next one to be read.
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
        """The columns without which a request is refused."""
        job = self.current.version.job
        if job.features.prepare is not None:
            return []
        return columns_asked(job.encoder, job.rates(), job.stream.predict_at, labelled=False)

    def look(self) -> Version:
        """Look which version is the champion, and have that answer from now on."""
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
        """Call this with the version that answers, and with each other one before it does."""
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
        """An answer for each row, null where it cannot be used, and why not.

        Raises StreamError where the rows are not as the model's columns want them.
        """
        return ask([self.current.question(rows)])[0]

    def describe(self) -> dict[str, Any]:
        """What is known of the version that answers now."""
        manifest = self.current.version.manifest
        return {name: manifest[name] for name in TOLD}

    def follow(self) -> threading.Thread:
        """Look again and again, beside whoever answers, until `close`."""

        def look() -> None:
            while not self._ended.wait(PERIOD):
                try:
                    self.look()
                except Exception as error:  # a store or a disk that is away: it looks again, and says so meanwhile
                    self.fault = str(error)

        thread = threading.Thread(target=look, name="champion", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Look no more."""
        self._ended.set()
