"""Every error a caller of `incr` can meet.

    IncrError                 anything below; `exit_code` is what the command line returns
    +-- JobError              the job file, or what is asked of a job, is wrong
    +-- ArgumentError         an argument is wrong, where there is no job: of a Python call; a ValueError too
    +-- StreamError           the data cannot be read as the job says
    |   +-- BadRows           some rows cannot be used and `on_bad_row = "fail"`
    +-- RunDirectoryError     the run directory belongs to another job, or is not one
    +-- VersionError          no such version
    +-- ExportError           a version cannot be exported, or does not answer as before when it is
    +-- CheckpointError       saved state is damaged, or belongs to something else
    +-- StorageError          the run directory cannot be written
    |   +-- StoreError        an object store refuses or does not answer
    +-- EngineError           what an engine runs on (Ray, Flower) does not start, answer or stop
    |   +-- WorkerLost        a worker died; the last commit is intact
    +-- StrategyError         a strategy's own argument is wrong, or it cannot do what it was asked
    +-- DivergedError         losses or weights are not finite again and again; the last commit is intact

A message names the place, what was expected, what came, and what to do. What of it is data cannot act on a terminal: it
is one line, in which what cannot be printed is told by its code.
"""

from __future__ import annotations

from incr_core.shown import shown

__all__ = [
    "ArgumentError",
    "BadRows",
    "CheckpointError",
    "DivergedError",
    "EngineError",
    "ExportError",
    "IncrError",
    "JobError",
    "RunDirectoryError",
    "StorageError",
    "StoreError",
    "StrategyError",
    "StreamError",
    "VersionError",
    "WorkerLost",
]


class IncrError(Exception):
    """The root of the tree: catch this to catch every error `incr` raises on purpose.

    >>> raise JobError("job.toml: stream.every: expected a duration, got '1x'; try '1h'")
    Traceback (most recent call last):
    ...
    incr_core.errors.JobError: job.toml: stream.every: expected a duration, got '1x'; try '1h'
    """

    exit_code = 1

    def __str__(self) -> str:
        return shown(super().__str__())


class JobError(IncrError):
    """The job file, or what is asked of a job, is wrong."""

    exit_code = 2


class ArgumentError(IncrError, ValueError):
    """An argument of a Python call is wrong; within a job the same is told as a JobError.

    >>> from incr_core.memories import Reservoir
    >>> try:
    ...     Reservoir(0)
    ... except ValueError as error:
    ...     print(error)
    memory.capacity: expected at least 1 row, got 0; leave the memory out instead
    """

    exit_code = 2


class StreamError(IncrError):
    """The data cannot be read as the job says."""

    exit_code = 2


class BadRows(StreamError):
    """Some rows cannot be used and the job says `on_bad_row = "fail"`."""


class RunDirectoryError(IncrError):
    """The run directory belongs to another job, or is not a run directory."""

    exit_code = 2


class VersionError(IncrError):
    """The version asked for does not exist."""

    exit_code = 2


class ExportError(IncrError):
    """A version cannot be exported: its model cannot be traced, or does not answer as before when it is."""


class CheckpointError(IncrError):
    """Saved state is damaged, or belongs to another model or strategy."""

    exit_code = 2


class StorageError(IncrError):
    """The run directory cannot be written; what was committed before is intact."""


class StoreError(StorageError):
    """An object store refuses, does not answer, or another process has written there; what was committed is intact."""


class EngineError(IncrError):
    """What an engine runs on does not start, cannot be reached, or does not stop; the last commit is intact."""


class WorkerLost(EngineError):
    """A worker died; the run stands at its last commit and can be resumed."""


class StrategyError(IncrError):
    """A strategy was given something it cannot be right with."""

    exit_code = 2


class DivergedError(IncrError):
    """The loss or the weights are no longer finite; the run stands at its last commit."""
