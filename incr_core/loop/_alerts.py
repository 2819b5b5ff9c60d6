"""Alerts about a run's events, in the log and by a webhook, without delaying the run."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from incr_core._util import Webhook
from incr_core.data.timeline import Tick
from incr_core.errors import JobError
from incr_core.job import AlertsSection, Job
from incr_core.loop._events import Event
from incr_core.shown import shown

__all__ = ["Alerts"]

LOG = logging.getLogger("incr.alerts")

PATIENCE = 5.0
"""Seconds that unsent messages have at the end of a run."""

LEAST = 20
"""Minimum number of rows for an alert about the share in quarantine."""


class Alerts:
    """Sends alerts about a run's events, as configured by the job.

    Args:
        section: The job's section.
        run: Name of the run.
        directory: Its directory.
        secret: Key for signing messages.

    Example:
        >>> with Alerts(AlertsSection(log=True), "flights", Path("runs/flights")) as alerts:
        ...     alerts.happened(Event(Tick(3, "2013-02-01"), "review", "looked back", "learned", 9))  # nothing to tell
    """

    def __init__(self, section: AlertsSection, run: str, directory: Path, secret: bytes = b"") -> None:
        self.section, self._run, self._directory = section, run, directory
        self._told = set[str]()  # increments that are learned again, such as after a loss, give no second alert
        self._webhook = None if section.webhook is None else Webhook(section.webhook, secret, _given_up)
        self._committed, self._ended = threading.Event(), threading.Event()
        self._clock: threading.Thread | None = None
        if section.stale_seconds is not None and (section.log or section.webhook):
            self._clock = threading.Thread(
                target=self._watch, args=(section.stale_seconds,), name="alerts", daemon=True
            )
            self._clock.start()

    @classmethod
    def of(cls, job: Job, directory: Path) -> Alerts | None:
        """Return the alerts that a job configures, or None.

        Raises:
            JobError: The secret cannot be read.
        """
        section = job.alerts
        if section.webhook is None and not section.log:
            return None
        return cls(section, job.name, directory, _secret(section.secret, Path(job.root)))

    def __enter__(self) -> Alerts:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._committed.set()
        if self._clock is not None:
            self._clock.join()
        if self._webhook is not None and (left := self._webhook.close(PATIENCE)):
            _given_up(f"{left} messages were not taken before the run ended")

    def happened(self, event: Event) -> None:
        """Alert about an event."""
        if event.kind in self.section.on:
            told = {"increment": event.tick.number, "name": event.tick.name, "rows": event.rows}
            self._tell(event.kind, event.what, event.action, told)

    def counted(self, tick: Tick, bad: int, arrived: int) -> None:
        """Alert if too many of an increment's rows are unusable."""
        if (
            "quarantine" in self.section.on
            and bad + arrived >= LEAST
            and bad > self.section.quarantine * (bad + arrived)
        ):
            what = f"{bad:,} of {bad + arrived:,} rows cannot be used"
            self._tell("quarantine", what, "they are in quarantine", {"increment": tick.number, "name": tick.name})

    def committed(self) -> None:
        """Note that a new version was committed."""
        self._committed.set()

    def _watch(self, stale: float) -> None:
        """Alert once, until the next version, if none was committed for `stale` seconds."""
        times = 0
        while not self._ended.is_set():
            if not self._committed.wait(stale):
                times += 1
                self._tell("stale", f"no version for {stale:g} s", "the last one continues to serve", {"number": times})
                self._committed.wait()
            self._committed.clear()

    def _tell(self, kind: str, what: str, action: str, more: Mapping[str, Any]) -> None:
        message = {"run": self._run, "directory": str(self._directory), "kind": kind, "what": what, "action": action}
        message |= more
        told = "\0".join(str(message.get(key)) for key in ("directory", "kind", "increment", "what", "number"))
        name = hashlib.sha256(told.encode()).hexdigest()[:32]
        if name in self._told:
            return
        self._told.add(name)
        if self.section.log:
            place = f" at {shown(str(more['name']))}" if "name" in more else ""
            LOG.warning("%s: %s%s: %s; %s", shown(self._run), kind, place, shown(what), shown(action))
        if self._webhook is not None:
            self._webhook.post({"id": name, **message})


def _secret(place: str | None, root: Path) -> bytes:
    """Return the secret from the place that a job specifies.

    Example:
        >>> _secret("env:SURELY_NOT_SET", Path())
        Traceback (most recent call last):
        ...
        incr_core.errors.JobError: alerts.secret: expected it in the environment as SURELY_NOT_SET, got nothing; set it
    """
    if place is None:
        return b""
    kind, _, name = place.partition(":")
    if kind == "env":
        if not (found := os.environ.get(name, "")):
            raise JobError(f"alerts.secret: expected it in the environment as {shown(name)}, got nothing; set it")
        return found.encode()
    try:
        secret = (root / name).read_bytes().strip()
    except OSError as error:
        raise JobError(
            f"alerts.secret: expected it in the file {shown(name)}, which cannot be read: {error.strerror}"
        ) from None
    if not secret:
        raise JobError(f"alerts.secret: expected it in the file {shown(name)}, which is empty; write it there")
    return secret


def _given_up(why: str) -> None:
    LOG.warning("alerts.webhook: %s", shown(why))
