"""Run a job from its first row to its report."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from incr_core.data.sources import Listing, await_files, seconds
from incr_core.engines import engine_named
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.loop import Loop, Progress
from incr_core.registry import RunDirectory
from incr_core.report import TensorBoard, write_report

__all__ = ["run"]


def run(
    job: Job,
    out: str | Path,
    on: str = "local",
    observe: Callable[[str, Progress], None] | None = None,
) -> dict[str, Any]:
    """Run a job on an engine, in a run directory; go on from the last commit where one is there.

    out: the run directory. on: "local", "cluster" or "federated". observe: called with the name of the run (the job's,
    then each baseline's) and its progress after every increment.

    Files that come to a folder meanwhile are learned too, as if the run had been started again when it ended.

    Returns the summary, which is also in DIR/summary.json (NaN as null there); "finished" in it is False when a signal
    stopped the run.
    """
    job = job.going_on(out)
    baselines = _baselines(job)
    summary = _run_one(job, Path(out), on, observe, job.name)
    directory = RunDirectory(out).open()
    for name, baseline in baselines.items() if summary["finished"] else ():
        if not _run_one(baseline, Path(out, "baselines", name), "local", observe, name)["finished"]:
            summary["finished"] = False
            break
    write_report(directory)
    return summary


def _baselines(job: Job) -> dict[str, Job]:
    """The baselines' jobs by name, checked before the run that they stand beside."""
    found: dict[str, Job] = {}
    for name, settings in job.baselines.items():
        if not re.fullmatch(r"\w[\w .-]*", name):
            raise JobError(f"baselines.{name}: expected a plain name, for a folder; use letters, digits, spaces, . - _")
        try:
            found[name] = job.with_settings([*settings, "baselines={}"])
        except JobError as error:
            raise JobError(f"baselines.{name}: {error}") from None
    return found


def _run_one(
    job: Job, out: Path, on: str, observe: Callable[[str, Progress], None] | None, name: str
) -> dict[str, Any]:
    kind = engine_named(on)
    with RunDirectory(out, keep=job.publish.keep).create(job.toml(), f"{on}:{job.fingerprint()}") as directory:
        tracker = TensorBoard(directory) if job.track.tensorboard else None

        def seen(done: Progress) -> None:
            if tracker is not None:
                tracker.follow()
            if observe is not None:
                observe(name, done)

        try:
            listing, settle = Listing(), seconds(job.stream.settle)
            await_files(job.files(), settle)
            listing.is_new(job.files(), _bad_files(directory))
            while True:
                engine = kind(job, out)
                try:
                    summary = Loop(job, engine, directory, seen).run_to_summary()
                finally:
                    engine.close()
                if not summary["finished"] or not _more(job, listing, directory, settle):
                    break
        finally:
            if tracker is not None:
                tracker.close()
        write_report(directory)
    return summary


def _more(job: Job, listing: Listing, directory: RunDirectory, settle: float) -> bool:
    """Whether there is something new to learn, if need be once what is being written now is whole."""
    files, bad = job.files(), _bad_files(directory)
    if listing.is_new(files, bad):
        return True
    return await_files(files, settle) and listing.is_new(job.files(), bad)


def _bad_files(directory: RunDirectory) -> list[tuple[str, str]]:
    """The files that could not be used as a whole, and what they were."""
    table = directory.table("quarantine")
    if "fingerprint" not in table.column_names:
        return []
    found = table.filter(pc.and_(pc.is_valid(table["fingerprint"]), pc.is_null(table["offset"])))
    return list(zip(found["fragment"].to_pylist(), found["fingerprint"].to_pylist(), strict=True))
