"""`incr run`: learn a job's stream, in a separate process if the engine may end it, and print the summary."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from incr_core._util import json_text
from incr_core.commands import STOPPED
from incr_core.commands._supervised import supervised
from incr_core.commands.progress import progress
from incr_core.errors import EngineError, RunDirectoryError
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.report import caution
from incr_core.runs import Run, run
from incr_core.shown import shown

__all__ = ["Command", "out_of", "print_summary", "run_apart", "run_here", "said_whether_stopped", "tell"]

Command = Callable[[argparse.Namespace], int]


def run_here(options: argparse.Namespace) -> int:
    """Run a job in this process. Return the exit code."""
    return _learn(options) or tell(out_of(options), options, follows=options.follow)


def run_apart(options: argparse.Namespace, guarded: Callable[[Command, argparse.Namespace], int]) -> int:
    """Run a job in a separate process, which the engine may end. Return the exit code.

    Args:
        options: The command's options.
        guarded: Calls a command, prints its errors, and returns its exit code.
    """
    code = supervised(lambda: guarded(_learn, options))
    if code is None:
        raise EngineError(
            f"--on {options.on}: the process that learned was ended from outside: by its Ray, whose raylet or GCS is "
            f"gone, by the kernel for want of memory, or by a person; {_stands(out_of(options))}"
        )
    return code or tell(out_of(options), options, follows=options.follow)


def _stands(out: str) -> str:
    """Return a sentence about the last committed version of a run."""
    try:
        version = RunDirectory.open(out).latest()
    except RunDirectoryError:
        version = None
    if version is None:
        return "nothing is committed yet; the same command starts from the beginning"
    return f"version {version} is committed and intact; the same command continues from it"


def out_of(options: argparse.Namespace) -> str:
    """Return the run directory that the options name."""
    name = Job.written(options.job, options.set).name
    return options.out or f"runs/{name}" + ("" if options.on == "local" else f"-{options.on}")


def _learn(options: argparse.Namespace) -> int:
    out = out_of(options)
    job = Job.written(options.job, options.set).resolved(out)
    if not options.quiet and not options.json:
        with suppress(OSError):  # a run does not end because its output has no reader
            print("\n".join(f"{kind}: {found}" for kind, found in job.told_columns().items()), flush=True)
    with progress(job, quiet=options.quiet) as on_progress:
        run(job, out, options.on, on_progress, follow=options.follow)
    return 0


def tell(out: str, options: argparse.Namespace, *, follows: bool = False) -> int:
    """Print the summary of a run that has ended, in the form of the options. Return the exit code.

    Args:
        out: The run directory.
        options: The command's options.
        follows: Whether the run was to continue until it was stopped.
    """
    summary = Run(out).summary.document()
    if options.json:
        print(json_text(summary))
    elif not options.quiet:
        print_summary(summary, out)
    return 0 if follows else said_whether_stopped(summary)


def said_whether_stopped(summary: dict[str, Any]) -> int:
    """Return the exit code of a run, and print a message if it was stopped before its end."""
    if summary["finished"]:
        return 0
    print(f"incr: stopped at version {summary['version']}; the same command continues from there", file=sys.stderr)
    return STOPPED


def print_summary(summary: dict[str, Any], out: str) -> None:
    """Print a summary in a few lines."""
    main = summary["main_metric"]
    value = summary["prequential"].get(main)
    value = math.nan if value is None else value
    print(
        f"{shown(summary['name'])} on {summary['engine']}: {summary['increments']:,} increments, "
        f"{summary['rows_learned']:,} rows learned in {summary['wall_seconds']:.1f} s "
        f"({summary['rows_per_second']:,.0f} rows/s)"
    )
    if summary["rows_quarantined"]:
        print(f"  {summary['rows_quarantined']:,} rows in quarantine: {shown(f'{out}/quarantine')}")
    if summary["rows_duplicate"]:
        print(f"  {summary['rows_duplicate']:,} rows learned before: {shown(f'{out}/duplicates')}")
    if summary.get("rows_dropped"):
        print(f"  {summary['rows_dropped']:,} rows above the limits, not learned: {shown(f'{out}/dropped')}")
    if summary["files_quarantined"]:
        print(f"  {summary['files_quarantined']:,} files in quarantine: {shown(f'{out}/quarantine')}")
    if summary["events"]:
        told = ", ".join(f"{kind} {count:,}" for kind, count in summary["events"].items())
        print(f"  events: {told}: {shown(f'{out}/events')}")
    print(
        f"  prequential {shown(main)} {value:.4f}   version {summary['version']}   model {summary['model_sha256'][:12]}"
    )
    if told := caution(summary):
        print(f"  {told}")
    print(f"  report: {shown(f'{out}/report.html')}")
