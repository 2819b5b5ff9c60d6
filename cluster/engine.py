"""Engine of a Ray cluster: R replicas of S shards, each an actor, that average their weights as they learn.

    receive    all workers take the next increment and predict; replicas report how many rows they have to learn
    learn      all workers learn, exchange, take the outer step and consolidate, without the driver in between
    hand over  the first replica hands over the whole weights, which every commit publishes
    save       all workers keep their state

An increment costs two calls to every worker, also if each increment is committed: workers then save and hand over as
soon as they have learned. A rarer commit costs one more call to every worker, and one to the first replica. The driver
writes a version to a folder in a thread while workers take and learn the next increment. The next commit waits for that
thread. A version in an object store is written before workers continue. The driver does no arithmetic on weights.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from cluster._actors import Actors, on_ray
from cluster._background_writes import await_all, take_shards
from cluster._draining_nodes import Leaving
from cluster._kept_states import KeptStates
from cluster._membership import Membership
from cluster._rank import Rank
from cluster._recruiting import Recruiter
from cluster._rendezvous import Rendezvous
from cluster._shared_folder import require_lasting
from cluster._tuning import tune_on_ray
from cluster._worker_messages import Due, Handover, LearnedHere, Received, SavedAt, Setup
from cluster._worker_pool import WorkerPool
from incr_core.engines import Commit, Engine, Saving
from incr_core.errors import ArgumentError, EngineError, StreamError, WorkerLost
from incr_core.numerics import FlatTensors
from incr_core.rounds import (
    WAITING,
    Arrival,
    Comparison,
    Orders,
    Pace,
    Round,
    check_borrowing,
    joined_rounds,
    total_observed,
)
from incr_core.update import Weights

if TYPE_CHECKING:
    from incr_core.job import Job

__all__ = ["ClusterEngine"]


class ClusterEngine(Engine):
    """Engine whose participants are replicas, on a Ray started here or on the one at `cluster.address`.

    With one replica there is no average. It takes one outer step for each increment, as the local engine does.

    Args:
        actors: Creates the place where workers run.
    """

    name = "cluster"
    tuner = staticmethod(tune_on_ray)

    def __init__(self, job: Job, directory: Path, actors: Callable[[Job], Actors] = on_ray) -> None:
        super().__init__(job, Path(directory).absolute())
        require_lasting(self.directory)
        settings = job.cluster
        if settings.memory_scope == "all":
            check_borrowing(job.strategies())
        self.max_failures = settings.max_failures
        self._members = Membership(settings.members, settings.shards)
        self._states = KeptStates(self.directory)
        self._origins: list[str] = []
        self._steps: list[int] = []
        self._version: int | None = None
        self._next = 1  # the version that is saved next
        self._handover: Handover | None = None
        self._learned: list[LearnedHere] = []  # with the content of a commit that follows at once
        self._ended = False
        self._actors = actors(job)
        try:
            self._leaving = Leaving(self._actors.draining)
            self._exports = self._actors.exports(str(self.directory))
            self._shared = self._states.shared()
            meeting, self._store = Rendezvous.open(self._actors.host, timedelta(seconds=settings.timeout))
            self._pool = WorkerPool(
                self._actors,
                self._store,
                settings.timeout,
                spares=settings.spares,
                setup=Setup(
                    job.model_dump(),
                    dict(job.objects_given),
                    meeting,
                    self._shared,
                    reads_files=job.files() is not None,
                ),
            )
            self._recruiter = Recruiter(self._pool, self._members, settings.spares)
            # A store whose objects are created in sequence is not written from two threads.
            self._saves_meanwhile = settings.shards > 1 and self._states.are_files
            self._written_store = meeting.join() if self._saves_meanwhile else self._store
        except BaseException:
            self.close()
            raise

    @classmethod
    def serve(cls, directory: str, options: Mapping[str, Any], stop: threading.Event) -> None:
        """Answer with the champion of a run on Ray Serve."""
        try:
            from cluster._serving import serve_on_ray
        except ImportError as missing:
            raise ArgumentError(f"--on cluster: needs Ray Serve, got: {missing}; pip install 'ray[serve]'") from missing
        serve_on_ray(directory, options, stop)

    @classmethod
    def detach(cls, job: Job, directory: Path, token: str) -> None:
        """Keep the loop in an actor of the Ray at `cluster.address`."""
        from cluster._detached import start

        require_lasting(directory)
        start(job, directory, token)

    @property
    def ranks(self) -> list[Rank]:
        """Ranks of the workers, as of the last `start`."""
        return self._pool.ranks

    @property
    def participants(self) -> list[str]:
        """The replicas."""
        return [rank.participant for rank in self.ranks if rank.shard == 0]

    @property
    def origins(self) -> Sequence[str]:
        """Names of the stream's fragments by number, as far as the first replica has read."""
        return self._origins

    @property
    def processes(self) -> list[int]:
        """Process ids of the workers, by rank."""
        return self._pool.processes

    @property
    def spares(self) -> int:
        """Number of spares that have started."""
        return self._pool.ready

    def start(self, commit: Commit | None) -> None:
        """Begin, or continue from a commit. Lost workers are replaced.

        Remaining workers that took part in the commit continue from their own memory.
        """
        self._version = None if commit is None else commit.version
        self._next = (self._version or 0) + 1
        self._exports.committed(self._version or 0)
        self._changed()
        with self._lost("starting"):
            self._members.begin(None if commit is None else commit.engine)
            joined = self._recruiter.form()
        with self._lost("beginning" if commit is None else "going on from the last commit"):
            if commit is None:
                self._origins, self._steps = [], []
                self._pool.call("start", None, None, None)
                return
            anew = len(joined) == len(self.ranks)
            sent = self._actors.shared(FlatTensors.of(commit.weights))
            self._pool.call_each("start", [(commit.version, at, sent, anew) for at in self._saved_at(commit.version)])

    def _saved_at(self, version: int) -> list[Any]:
        """Places of the states from which workers continue: each worker's own, or those of which it takes a part."""
        members, states = self._members, self._states
        if not members.inherits and not members.cuts:
            return [SavedAt([[states.of(rank, version)]]) for rank in self.ranks]
        found: dict[tuple[int | None, int | None], Any] = {}
        return [self._taken_from(rank, version, found) for rank in self.ranks]

    def _taken_from(self, rank: Rank, version: int, found: dict[tuple[int | None, int | None], Any]) -> Any:
        """The states of which a worker takes a part. `found` has those that each replica and shard needs, computed
        once."""
        members = self._members
        key = None if members.inherits else rank.replica, None if members.cuts else rank.shard
        if key not in found:
            replicas = range(members.before or 0) if members.inherits else (rank.replica,)
            shards = range(members.shards_before) if members.cuts else (rank.shard,)
            kept = self._states.of_all(rank, replicas, shards, version)
            found[key] = self._actors.shared(SavedAt(kept, inherits=members.inherits, cuts=members.cuts))
        return found[key]

    def told(self) -> dict[str, Any]:
        """Numbers of replicas by first increment, if they may change."""
        return {} if self._members.wanted.fixed and len(self._members.log) < 2 else {"replicas": self._members.log}

    def receive(self) -> list[Arrival]:
        """Let every replica take its next increment."""
        self._changed()
        with self._lost("receiving an increment"):
            told: list[Received | None] = self._pool.call("receive", waiting=self.while_waiting)
        received = [found for found, rank in zip(told, self.ranks, strict=True) if rank.shard == 0]
        arrivals = [found.arrival for found in received if found is not None]
        if arrivals and arrivals[0].tick.name == WAITING:  # rows held back, which not every replica has
            arrivals = [Arrival(arrivals[0].tick) if found is None else found.arrival for found in received]
        if len(arrivals) not in (0, len(received)) or len({arrival.tick for arrival in arrivals}) > 1:
            found = ", ".join("the end" if one is None else one.arrival.tick.name for one in received)
            raise StreamError(
                f"stream: expected the same increment in every replica, got {found}; "
                "did files appear while the replicas began to read? run the same command again"
            )
        self._steps, self._ended = [found.steps if found is not None else 0 for found in received], not arrivals
        if arrivals:
            self._members.received(arrivals[0].tick.number)
        if received[0] is not None:
            self._origins[received[0].known :] = received[0].origins
        return arrivals

    def learn(self, arrivals: Sequence[Arrival], rows: Mapping[str, Tensor] | None = None) -> Round:
        """Let all workers learn the increment, exchanging as often as the job says, or their rows of the history."""
        if rows is None:
            return self._learn(arrivals)
        if not rows:
            with self._lost(f"skipping {arrivals[0].tick.name}"):
                self._pool.call("skip")
            return Round()
        self._changed()
        none = torch.empty(0, dtype=torch.int64)
        with self._lost("reviewing"):
            done = self._pool.call_each("review", [(rows.get(rank.participant, none),) for rank in self.ranks])
        return joined_rounds(done)

    def _learn(self, arrivals: Sequence[Arrival]) -> Round:
        if sum(arrival.labelled for arrival in arrivals) == 0:
            return Round()
        self._changed()
        with self._lost(f"learning {arrivals[0].tick.name}"):
            # Packed once here, not once for each worker.
            told = pickle.dumps((FlatTensors.of(total_observed(arrivals)), self._pace()))
            due = self._due
            done: list[LearnedHere] = self._pool.call("learn", told, due)
        self._handover, self._learned = done[0].handover, [] if due is None else done
        learned = joined_rounds([one.done for one in done])
        rows = sum(arrival.labelled for arrival in arrivals)
        self._exports.learned(rows, max(arrival.seconds for arrival in arrivals), learned)
        return learned

    @property
    def _due(self) -> Due | None:
        """Content of the commit that directly follows an increment, if one does.

        In a store the state is not included, because the check for divergence comes first. In a folder it is, and is
        saved again after a verdict of the gate that workers have to follow (`order`): most versions need none.
        """
        if self.job.publish.every > 1:
            return None
        saves = self._states.are_files and not self._saves_meanwhile
        return Due(gathers=not self._saves_meanwhile, version=self._next if saves else None)

    def _changed(self) -> None:
        """Forget the workers' last reports, which are out of date."""
        self._handover, self._learned = None, []

    def _pace(self) -> Pace:
        """When the replicas exchange within an increment."""
        learner = self.job.learner
        return self.job.cluster.interval.pace(self._steps, learner.batch_size * learner.accumulate)

    def order(self, orders: Orders, weights: Weights | None = None) -> None:
        """Let all workers apply the actions."""
        if weights is not None or orders != Orders(verdict=orders.verdict):
            self._changed()
        self._learned = []  # states that workers saved with the increment are out of date
        with self._lost("following orders"):
            sent = None if weights is None else self._actors.shared(FlatTensors.of(weights))
            self._pool.call("order", orders, sent)

    def judge(self) -> list[Tensor]:
        """Let all workers judge the weights."""
        with self._lost("judging the weights"):
            judged: list[Tensor] = self._pool.call("judge")
        return judged

    def compare(self, champion: Weights) -> list[Comparison]:
        """Let all workers compare the weights with the champion's."""
        with self._lost("comparing the weights"):
            compared: list[Comparison] = self._pool.call("compare", self._actors.shared(FlatTensors.of(champion)))
        return compared

    def save(self, version: int) -> Saving:
        """Let all workers keep their state for this version."""
        handed, news = self._handed_over(gathers=not self._saves_meanwhile), self._members.news
        weights = self._begin_writing(version) if self._saves_meanwhile else self._keep(version, handed)
        self._next = version + 1
        # If states are objects, or some are kept for longer, workers do not remove their own.
        workers_sweep = self._states.are_files and not self.job.publish.keeps_older
        return Saving(
            weights,
            state=self._members.saved(),
            swept=[] if workers_sweep else self.participants,
            extra_state=handed.extra_state,
            history=handed.history,
            retired=self._members.retired,
            news=news,
            meanwhile=self._states.are_files,
            settle=self._settle,
            committed=partial(self._committed, version),
            membership_changes=self._membership_changes,
        )

    def _keep(self, version: int, handed: Handover) -> Callable[[Callable[[], bool]], Weights]:
        """Let all workers save, if they have not saved with the increment."""
        # With a fixed number of replicas, workers take the next increment while the version is written.
        then = "receive" if self._members.wanted.fixed and not self._ended else ""
        due = self._due
        kept = due is not None and due.version == version
        saved = [one.saved for one in self._learned if kept and one.saved is not None]
        with self._lost(f"saving version {version}"):
            if not saved:
                saved = self._pool.call("save", version, then=then)
            elif then:
                self._pool.begin(then)
        self._states.kept(self.ranks, version, saved)
        return lambda given_up: handed.weights.tensors()

    def _begin_writing(self, version: int) -> Callable[[Callable[[], bool]], Weights]:
        """Let all workers write their state while they learn."""
        token = uuid4().hex[:8]
        keys = [f"written/{token}/{rank.number}" for rank in self.ranks]
        with self._lost(f"saving version {version}"):
            self._pool.call_each("save_meanwhile", [(version, key) for key in keys])
        return partial(self._written, version, keys)

    def _written(self, version: int, keys: Sequence[str], given_up: Callable[[], bool]) -> Weights:
        """Wait for all workers, and join the weights that those of the first replica have written."""
        told = await_all(self._written_store, keys, given_up)
        first = [rank for rank in self.ranks if rank.replica == 0]
        return take_shards([rank.state(self.directory, version) for rank in first], told[0])

    def _settle(self) -> None:
        """Wait until no worker is writing."""
        if self._saves_meanwhile:
            with self._lost("writing a version"):
                self._pool.call("settle")

    def _membership_changes(self) -> bool:
        """Return whether the number of replicas changes now."""
        with self._lost("looking for more workers"):
            return self._recruiter.membership_changes()

    def _committed(self, version: int) -> None:
        """Note a commit: used spares may be replaced."""
        self._version = version
        self._exports.committed(version)
        with self._lost(f"going on after version {version}"):
            self._pool.committed()

    def not_finite(self) -> str | None:
        """Name of a weight that is not finite. Each worker checks its own part if the whole weights are not needed."""
        if not self._saves_meanwhile:
            return super().not_finite()
        if self._learned:
            return next(filter(None, (one.not_finite for one in self._learned)), None)
        with self._lost("looking at the weights"):
            found: list[str | None] = self._pool.call("not_finite")
        return next(filter(None, found), None)

    def leaving(self) -> str:
        """Workers on nodes that are being drained, and whether the node of this process is one of them."""
        with self._lost("looking for nodes that leave"):
            found = self._leaving.noticed(self._nodes)
        return f"cluster: the node of {', '.join(found)} is being drained" if found else ""

    def _nodes(self) -> dict[str, str]:
        nodes, here = self._pool.nodes(), self._actors.node
        return {**nodes, here: ", ".join(filter(None, [nodes.get(here), "the loop"]))}

    def weights(self) -> Weights:
        """The whole weights."""
        return self._handed_over().weights.tensors()

    def _handed_over(self, *, gathers: bool = True) -> Handover:
        """The first replica's part of a commit, with or without the weights; requested once until something changes."""
        if self._handover is None or (gathers and not self._handover.weights.layout.places):
            with self._lost("gathering the weights"):
                self._handover = self._pool.call_first("hand_over", gathers=gathers)
        assert self._handover is not None
        return self._handover

    def close(self) -> None:
        """End the workers, and Ray if it was started here."""
        if hasattr(self, "_pool"):
            self._pool.close()
        if hasattr(self, "_shared"):
            self._shared.unmark()
        self._actors.close()

    @contextmanager
    def _lost(self, doing: str) -> Iterator[None]:
        """Add to the error of a lost worker, or of Ray, its effect on the run."""
        try:
            self._actors.require()
            yield
        except RayTaskError:  # an error of a worker's own code, or of the user's
            raise
        except (EngineError, RayError) as lost:
            stands = (
                "nothing is committed yet; the same command starts over"
                if self._version is None
                else f"version {self._version} is committed and intact; the same command continues from it"
            )
            kind = WorkerLost if isinstance(lost, WorkerLost) else EngineError
            if kind is WorkerLost:
                self._exports.lost()
            reason = " ".join(str(lost).split())
            raise kind(f"cluster: {reason} while {doing}; {stands}") from lost
