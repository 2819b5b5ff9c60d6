"""Learns a job's stream and those of its baselines, from the first row or the last commit to the end."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pyarrow.compute as pc

from incr_core._util import set_by_signals
from incr_core.data.sources import Listing, await_files, seconds
from incr_core.engines import Engine
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.loop import Alerts, Loop, Progress
from incr_core.registry import CHANGE, STOP, RunDirectory, asked
from incr_core.report import write_report
from incr_core.runs._engine_choice import EngineSettings, engine_chosen
from incr_core.storage import copy_of
from incr_core.trackers import Trackers

__all__ = ["OnProgress", "learn"]

OnProgress = Callable[[str, Progress], None]
"""Receives the name of the run (the job's, then each baseline's) and its progress after every increment."""


LOOK = 0.25
"""Seconds between checks for new files, if the run waits for them."""


def learn(
    job: Job,
    out: Path,
    on: str | EngineSettings,
    on_progress: OnProgress | None,
    lost: str = "",
    *,
    follow: bool = False,
) -> Job:
    """Run a job on an engine in a run directory, and its baselines in this process; return the job as it was run.

    Files that arrive during the run are learned too, as if the run had been started again at its end.

    Args:
        lost: Description of the process that held the run before, if that one was lost.
        follow: Wait for more files until asked to stop, and skip the baselines.
    """
    kind, job = engine_chosen(job, on)
    job = job.going_on(out)
    baselines = _baselines(job)
    alerts = Alerts.of(job, out)
    with nullcontext() if alerts is None else alerts:
        finished = _learn_one(job, out, kind, on_progress, "", lost, alerts, follow=follow)
    local, _ = engine_chosen(job, "local")
    beside = list[str]()
    for name, baseline in baselines.items() if finished and not follow else ():
        if asked(out, STOP):
            break
        beside.append(name)
        if not _learn_one(baseline, out / "baselines" / name, local, on_progress, name):
            break
    if beside:  # the report of the run was written without them
        write_report(RunDirectory.open(out))
    return job


def _baselines(job: Job) -> dict[str, Job]:
    """The baselines' jobs by name, checked before the main run."""
    found: dict[str, Job] = {}
    for name, settings in job.baselines.items():
        if not re.fullmatch(r"\w[\w .-]*", name):
            raise JobError(f"baselines.{name}: expected a plain name, for a folder; use letters, digits, spaces, . - _")
        try:
            found[name] = job.with_settings([*settings, "baselines={}"])
        except JobError as error:
            raise JobError(f"baselines.{name}: {error}") from None
    return found


def _disk(job: Job, out: Path) -> int | None:
    """Maximum number of bytes of the run directory; None for no limit."""
    if job.limits.disk is None:
        return None
    if copy_of(out) is not None:
        raise JobError(
            "limits.disk: expected a run directory on a disk, got one at an address, whose store has its "
            "own; leave it out, or set publish.keep"
        )
    return int(job.limits.disk * 1e9)


def _learn_one(
    job: Job,
    out: Path,
    kind: type[Engine],
    on_progress: OnProgress | None,
    baseline: str = "",
    lost: str = "",
    alerts: Alerts | None = None,
    *,
    follow: bool = False,
) -> bool:
    """Learn to the end of the stream. Returns False if a signal requested a stop first.

    Args:
        baseline: The name of the baseline to learn; "" for the run itself.
    """
    stop = threading.Event()
    fingerprint = f"{kind.name}:{job.fingerprint()}"
    with RunDirectory.create(out, job.toml(), fingerprint, keep=job.publish.keep, as_now=Job.as_now) as directory:
        directory.disk = _disk(job, out)

        def seen(done: Progress) -> None:
            if on_progress is not None:
                on_progress(baseline or job.name, done)

        # A signal between two increments must not end the process either.
        signals = set_by_signals(stop) if follow else nullcontext()
        with Trackers(job, directory, baseline) as trackers:
            listing, settle = Listing(), seconds(job.stream.settle)
            await_files(job.files(), settle)
            listing.is_new(job.files(), _bad_files(directory))
            with signals:
                while True:
                    engine = kind(job, out)
                    try:
                        loop = Loop(job, engine, directory, seen, lost, alerts, stop)
                        finished: bool = loop.run_to_summary()["finished"]
                        lost = ""
                    finally:
                        engine.close()
                    more = finished and (_come if follow else _more)(job, listing, directory, settle, stop)
                    if not more:
                        break
            trackers.finished = finished
        write_report(directory)
    return finished


def _come(job: Job, listing: Listing, directory: RunDirectory, settle: float, stop: threading.Event) -> bool:
    """Wait for new data or a requested change. Returns False if asked to stop."""
    bad = _bad_files(directory)
    while not stop.is_set() and not asked(directory.path, STOP):
        if listing.is_new(job.files(), bad) or asked(directory.path, CHANGE):
            return True
        stop.wait(LOOK)
    return False


def _more(job: Job, listing: Listing, directory: RunDirectory, settle: float, stop: threading.Event) -> bool:
    """Return whether there is new data, after waiting for a write in progress if necessary."""
    files, bad = job.files(), _bad_files(directory)
    if listing.is_new(files, bad):
        return True
    return await_files(files, settle) and listing.is_new(job.files(), bad)


def _bad_files(directory: RunDirectory) -> list[tuple[str, str]]:
    """Files that could not be used as a whole, with reasons."""
    table = directory.table("quarantine")
    if "fingerprint" not in table.column_names:
        return []
    found = table.filter(pc.and_(pc.is_valid(table["fingerprint"]), pc.is_null(table["offset"])))
    return list(zip(found["fragment"].to_pylist(), found["fingerprint"].to_pylist(), strict=True))
