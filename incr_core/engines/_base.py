"""The protocol of an engine: where learners live and how updates travel.

The loop drives every engine the same way:

    engine.start(commit)                from the beginning, or from a commit
    arrivals = engine.receive()         every participant predicts what arrives and reports what it has to learn
    round = engine.learn(arrivals)      rounds of: adopt, learn, exchange, outer step
    engine.order(orders)                before or after: what else participants are to do; usually nothing
    engine.judge()                      before a commit, where the job has a gate
    saving = engine.save(version)       at a commit: participants save their state; all else that it takes (`Saving`)
    engine.close()

Besides, an engine says who takes part and in what (`participants`, `origins`), hands out the `weights`, and answers
three questions, for which an engine of one process needs no code: `not_finite`, `leaving` and `told`. What owners of
rows do outside of runs is another protocol (`AtOwner`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from incr_core.engines._at_owner import AtOwner
from incr_core.engines._commit import Commit, Saving
from incr_core.errors import JobError
from incr_core.numerics import all_finite, settle_arithmetic
from incr_core.rounds import Arrival, Orders, Round
from incr_core.update import Weights

if TYPE_CHECKING:
    from incr_core.job import Job

__all__ = ["Engine"]


class Engine:
    """Drive participants through increments. Subclasses say where participants live.

    job: what to run; directory: the run directory, under whose `state/` participants save theirs.
    """

    name = "engine"

    max_failures = 0
    """How many times in a row, without a commit between, `start` may be called again after WorkerLost."""

    interruptible = False
    """Whether `start` may be called after `receive` was given up while it waited."""

    at_owner: ClassVar[AtOwner | None] = None
    """What owners of rows can do on their own hosts; None where no participant is a client."""

    def __init__(self, job: Job, directory: Path) -> None:
        # Merging updates must round exactly as making them does.
        settle_arithmetic(job.learner.threads, job.learner.device)
        self.job = job
        self.directory = directory
        self.while_waiting: Callable[[], None] = lambda: None
        """Called now and then by a `receive` that waits for data, where commits are made meanwhile (`Saving`)."""

    @classmethod
    def detach(cls, job: Job, directory: Path, token: str) -> None:
        """Call `runs.go_on` in a process that outlives this one, and in another whenever it is lost; returns at once.

        token: what the process is known by in the run directory (`registry.Detached`), which is written before.
        """
        raise JobError(
            f"--detach: expected --on cluster, whose Ray can keep the run, got --on {cls.name}, which runs in the "
            "process of the command; leave --detach out"
        )

    @property
    def participants(self) -> list[str]:
        """Names of the participants, in the order of their shares in every sum."""
        raise NotImplementedError

    @property
    def origins(self) -> Sequence[str]:
        """What rows are from, by the number that their ids bear: names of the fragments known of the stream."""
        raise NotImplementedError

    def start(self, commit: Commit | None) -> None:
        """Begin anew, or go on from a commit; whatever was learned since is dropped.

        After WorkerLost too, where `max_failures` allows: lost workers are then replaced.
        """
        raise NotImplementedError

    def receive(self) -> list[Arrival]:
        """Let every participant take its next increment; empty when the stream has ended."""
        raise NotImplementedError

    def learn(self, arrivals: Sequence[Arrival], rows: Mapping[str, Tensor] | None = None) -> Round:
        """Learn the increment at hand, or instead `rows` of the history, once more and in one round.

        rows: row ids (n,) by participant. If there are none, the increment is skipped: the rows in `arrivals` are
        dropped, and an engine that has rows wait takes those out of `arrivals`.
        """
        raise NotImplementedError

    def order(self, orders: Orders, weights: Weights | None = None) -> None:
        """Let all participants follow orders, then adopt these weights, before an increment is learned or after."""
        raise NotImplementedError

    def judge(self) -> list[Tensor]:
        """Let participants compare the weights with the champion on rows of the past: sums of each (`Reference.judge`).

        Asked before a commit, where the job has a gate; the verdict comes with the next orders.
        """
        raise JobError(f"publish.gate: expected an engine that judges versions, got {self.name}; leave it out")

    def save(self, version: int) -> Saving:
        """Let participants save their state for this version, which is about to be committed."""
        raise NotImplementedError

    def weights(self) -> Weights:
        """The common weights of all participants, whole, on the CPU or as live views."""
        raise NotImplementedError

    def not_finite(self) -> str | None:
        """The name of a weight with values that are not finite; None where there is none."""
        return next((name for name, value in self.weights().items() if not all_finite(value)), None)

    def leaving(self) -> str:
        """Who is about to leave, and takes with it what is not committed, in words; told once, and otherwise empty."""
        return ""

    def told(self) -> dict[str, Any]:
        """More to tell in the summary of a run."""
        return {}

    def close(self) -> None:
        """Release all resources. May be called twice."""
