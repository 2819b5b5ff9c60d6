"""The protocol of an engine, which hosts learners and transfers their updates.

The loop drives every engine in the same way:

    engine.start(commit)                from the beginning, or from a commit
    arrivals = engine.receive()         every participant predicts its new rows and reports the rows to learn
    round = engine.learn(arrivals)      rounds of: adopt, learn, exchange, outer step
    engine.order(orders)                before or after: further orders for participants; usually none
    engine.judge()                      before a commit, if the job has a gate
    engine.compare(champion)            before a commit, if the gate holds rows back
    saving = engine.save(version)       at a commit: participants save their state; describes the rest (`Saving`)
    engine.close()

In addition, an engine names its participants and the origins of rows (`participants`, `origins`) and provides the
`weights`. Three further methods have defaults that suit an engine of one process: `not_finite`, `leaving` and `told`.
The operations of data owners outside of runs are a separate protocol (`AtOwner`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from incr_core.engines._at_owner import AtOwner
from incr_core.engines._commit import Commit, Saving
from incr_core.engines._tuner import Tuner
from incr_core.errors import ArgumentError, JobError
from incr_core.numerics import all_finite, settle_arithmetic
from incr_core.rounds import Arrival, Comparison, Orders, Round
from incr_core.update import Weights

if TYPE_CHECKING:
    from incr_core.job import Job

__all__ = ["Engine"]


class Engine:
    """Base class of the engines, which drive participants through increments. Subclasses define where participants
    live.

    Args:
        job: The job to run.
        directory: The run directory; participants save their state below its `state/`.
    """

    name = "engine"

    max_failures = 0
    """Number of consecutive times, without a commit in between, that `start` may be called again after WorkerLost."""

    interruptible = False
    """Whether `start` may be called after a waiting `receive` was abandoned."""

    at_owner: ClassVar[AtOwner | None] = None
    """Operations of data owners on their own hosts; None if no participant is a client."""

    tuner: ClassVar[Tuner | None] = None
    """Learns several trials of a job at the same time, each in one process; None if the engine cannot."""

    def __init__(self, job: Job, directory: Path) -> None:
        # Merging updates must round exactly as computing them does.
        settle_arithmetic(job.learner.threads, job.learner.device)
        self.job = job
        self.directory = directory
        self.while_waiting: Callable[[], None] = lambda: None
        """Called now and then by a `receive` that waits for data, where commits are made meanwhile (`Saving`)."""

    @classmethod
    def detach(cls, job: Job, directory: Path, token: str) -> None:
        """Run `runs.go_on` in a process that outlives this one and is replaced whenever it is lost; return at once.

        Args:
            job: The job.
            directory: The run directory.
            token: Identifies the process in the run directory (`registry.Detached`), where it is written beforehand.
        """
        raise JobError(
            f"--detach: expected --on cluster, whose Ray can keep the run, got --on {cls.name}, which runs in the "
            "process of the command; leave --detach out"
        )

    @classmethod
    def serve(cls, directory: str, options: Mapping[str, Any], stop: threading.Event) -> None:
        """Answer over HTTP with the champion of a run where this engine's workers run, until asked to stop.

        Args:
            directory: The run directory.
            options: Those of `incr serve`, by name.
            stop: Set to stop.
        """
        raise ArgumentError(
            f"--on: expected local, or cluster for Ray Serve, got {cls.name}, which serves nothing; leave --on out"
        )

    @property
    def participants(self) -> list[str]:
        """Names of the participants, in the order of their shares in every sum."""
        raise NotImplementedError

    @property
    def origins(self) -> Sequence[str]:
        """Names of the stream's known fragments, indexed by the number in row ids."""
        raise NotImplementedError

    def start(self, commit: Commit | None) -> None:
        """Start from the beginning, or from a commit; rows learned after the commit are discarded.

        It is also called after WorkerLost, as often as `max_failures` allows; lost workers are then replaced.
        """
        raise NotImplementedError

    def receive(self) -> list[Arrival]:
        """Let every participant take its next increment; empty at the end of the stream."""
        raise NotImplementedError

    def learn(self, arrivals: Sequence[Arrival], rows: Mapping[str, Tensor] | None = None) -> Round:
        """Learn the current increment, or instead `rows` of the history once more, in a single round.

        Args:
            arrivals: The participants' reports on the increment.
            rows: Row ids (n,) by participant. If empty, the increment is skipped: the rows in `arrivals` are dropped,
                and an engine with waiting rows removes these from `arrivals`.
        """
        raise NotImplementedError

    def order(self, orders: Orders, weights: Weights | None = None) -> None:
        """Let all participants follow orders, then adopt these weights, before or after an increment is learned."""
        raise NotImplementedError

    def judge(self) -> list[Tensor]:
        """Return each participant's sums of a comparison of the weights with the champion on past rows
        (`Reference.judge`).

        It is called before a commit if the job has a gate, which is the default. The verdict is part of the next
        orders.
        """
        raise JobError(f"publish.gate: expected an engine that judges versions, got {self.name}; set it to false")

    def compare(self, champion: Weights) -> list[Comparison]:
        """Let participants compare the weights with the champion's on the rows held back (`Participant.compare`).

        Asked before a commit, where the job has `publish.holdout`.
        """
        raise JobError(f"publish.holdout: expected an engine that compares versions, got {self.name}; leave it out")

    def save(self, version: int) -> Saving:
        """Let participants save their state for this version, which is about to be committed."""
        raise NotImplementedError

    def weights(self) -> Weights:
        """Return the common weights of all participants, whole, on the CPU or as live views."""
        raise NotImplementedError

    def not_finite(self) -> str | None:
        """Return the name of a weight with non-finite values, or None."""
        return next((name for name, value in self.weights().items() if not all_finite(value)), None)

    def leaving(self) -> str:
        """Describe the participants that are about to leave with uncommitted rows, once each; otherwise empty."""
        return ""

    def told(self) -> dict[str, Any]:
        """Return additional entries for the summary of a run."""
        return {}

    def close(self) -> None:
        """Release all resources. May be called twice."""
