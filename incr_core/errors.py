"""All errors that `incr` raises on purpose.

    IncrError                 base of all; `exit_code` is the exit status of the command line
    +-- JobError              the job file, or a request about a job, is wrong
    +-- ArgumentError         an argument of a Python call is wrong, without a job; also a ValueError
    +-- StreamError           the data cannot be read as the job describes
    |   +-- BadRows           some rows are unusable and `on_bad_row = "fail"`
    +-- RunDirectoryError     the run directory belongs to another job, or is not one
    +-- VersionError          no such version
    +-- ExportError           a version cannot be exported, or its export gives other predictions
    +-- CheckpointError       saved state is damaged, or belongs to something else
    +-- StorageError          the run directory cannot be written
    |   +-- StoreError        an object store rejects a request or does not respond
    +-- EngineError           an engine's backend (Ray, Flower) does not start, respond or stop
    |   +-- WorkerLost        a worker died; the last commit is intact
    +-- StrategyError         an argument of a strategy is wrong, or it cannot do as requested
    +-- DivergedError         losses or weights are repeatedly not finite; the last commit is intact

A message names the place, the expected value, the actual value and the remedy. Data in a message cannot affect a
terminal: it is one line, with unprintable characters escaped.
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
    """Base class of all errors that `incr` raises on purpose.

    Example:
        >>> raise JobError("job.toml: stream.every: expected a duration, got '1x'; try '1h'")
        Traceback (most recent call last):
        ...
        incr_core.errors.JobError: job.toml: stream.every: expected a duration, got '1x'; try '1h'
    """

    exit_code = 1

    def __str__(self) -> str:
        return shown(super().__str__())


class JobError(IncrError):
    """The job file, or a request about a job, is wrong."""

    exit_code = 2


class ArgumentError(IncrError, ValueError):
    """An argument of a Python call is wrong. Within a job the same fault is a JobError.

    Example:
        >>> from incr_core.memories import Reservoir
        >>> try:
        ...     Reservoir(0)
        ... except ValueError as error:
        ...     print(error)
        memory.capacity: expected at least 1 row, got 0; leave the memory out instead
    """

    exit_code = 2


class StreamError(IncrError):
    """The data cannot be read as the job describes."""

    exit_code = 2


class BadRows(StreamError):
    """Some rows are unusable and the job says `on_bad_row = "fail"`."""


class RunDirectoryError(IncrError):
    """The run directory belongs to another job, or is not a run directory."""

    exit_code = 2


class VersionError(IncrError):
    """The requested version does not exist."""

    exit_code = 2


class ExportError(IncrError):
    """A version cannot be exported: its model cannot be traced, or the export gives other predictions."""


class CheckpointError(IncrError):
    """Saved state is damaged, or belongs to another model or strategy."""

    exit_code = 2


class StorageError(IncrError):
    """The run directory cannot be written; earlier commits are intact."""


class StoreError(StorageError):
    """An object store rejects a request or does not respond, or another process wrote there; commits are intact."""


class EngineError(IncrError):
    """An engine's backend does not start, cannot be reached, or does not stop; the last commit is intact."""


class WorkerLost(EngineError):
    """A worker died; the run is at its last commit and can be resumed."""


class StrategyError(IncrError):
    """An argument of a strategy is wrong, or it cannot do as requested."""

    exit_code = 2


class DivergedError(IncrError):
    """The loss or the weights are no longer finite; the run is at its last commit."""
