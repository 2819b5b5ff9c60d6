"""The trackers of a job, by name, and their threads."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from types import TracebackType

from incr_core._util import Catalogue
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.trackers._base import TrackedRun, Tracker
from incr_core.trackers._follower import Follower
from incr_core.trackers._tensorboard import TensorBoard

__all__ = ["TRACKERS", "Trackers"]

TRACKERS: Catalogue[Callable[[TrackedRun], Tracker]] = Catalogue("a tracker", {}, "incr.trackers")
"""The names in `track.callbacks`: entry points of other packages."""


class Trackers:
    """The trackers of a job, which follow a run directory until the context ends.

    The context ends when everything is delivered, or a tracker does not get further (`Follower.close`).

    Args:
        job: The job.
        directory: The run directory, open for writing.
        baseline: The name of the baseline that runs there; "" for the run itself.

    Attributes:
        finished: Whether the run has ended because its stream has. Set it before the context ends.

    Raises:
        JobError: A package is not installed, or a name in `track.callbacks` is unknown.
    """

    def __init__(self, job: Job, directory: RunDirectory, baseline: str = "") -> None:
        self.finished = False
        self._followers = [Follower(name, make, job, directory, baseline) for name, make in _makers(job).items()]

    def __enter__(self) -> Trackers:
        for follower in self._followers:
            follower.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for follower in self._followers:
            follower.end(self.finished and error is None)
        for follower in self._followers:
            follower.join()


def _makers(job: Job) -> dict[str, Callable[[TrackedRun], Tracker]]:
    """The key of each tracker in the job, and a function that connects it."""
    track, found = job.track, dict[str, Callable[[TrackedRun], Tracker]]()
    if track.tensorboard:
        _require("tensorboard", "tensorboard", "track")
        found["tensorboard"] = TensorBoard
    if track.mlflow is not None:
        _require("mlflow", "mlflow", "mlflow")
        from incr_core.trackers._mlflow import MLflow  # imports the standard library's HTTP client

        found["mlflow"] = partial(MLflow, uri=track.mlflow)
    for name in track.callbacks:
        found[name] = TRACKERS.find(name, "track.callbacks", job.root)
    return found


def _require(key: str, package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise JobError(f"track.{key}: expected the package {package}, got none; pip install 'incr[{extra}]'")
