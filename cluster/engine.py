"""The engine of a Ray cluster: R replicas of S shards, each an actor, that average their weights as they learn.

    receive    all workers take the next increment and predict; replicas tell how many rows they have to learn
    learn      all workers learn, exchange, take the outer step and consolidate, without the driver in between
    hand over  the first replica hands over the whole weights, which every commit publishes
    save       all workers keep their state

So an increment costs two calls to every worker. A commit after every increment costs one more, since the weights are
then handed over with what was learned; a rarer one costs two. The driver does no arithmetic on weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from cluster.exported import Exported
from cluster.leaving import Leaving
from cluster.membership import Membership
from cluster.place import Place
from cluster.recruiting import Recruiter
from cluster.rendezvous import Rendezvous
from cluster.session import Session, require_ray
from cluster.shared_folder import SharedFolder, require_lasting
from cluster.shared_store import SharedStore, StoredState
from cluster.worker import Handover, Received, Saved, Setup
from cluster.worker_pool import WorkerPool
from cluster.writing import await_all, take_parts
from incr_core.engines import Commit, Engine
from incr_core.errors import EngineError, StreamError, WorkerLost
from incr_core.numerics import FlatTensors
from incr_core.rounds import Arrival, Orders, Pace, Round, check_borrowing, total_observed
from incr_core.storage import copy_of
from incr_core.update import Weights

if TYPE_CHECKING:
    from incr_core.job import ClusterSection, Job

__all__ = ["ClusterEngine"]


class ClusterEngine(Engine):
    """Participants are replicas, on a Ray of our own or on the one at `cluster.address`.

    With one replica there is nobody to average with: it takes one outer step an increment, as the local engine does.
    """

    name = "cluster"

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, Path(directory).absolute())
        require_lasting(self.directory)
        self._copy = copy_of(self.directory)
        settings = job.cluster
        if settings.memory_scope == "all":
            check_borrowing(job.strategies())
        self.max_failures = settings.max_failures
        self._members = Membership(settings.members, settings.shards)
        self._fragments: list[str] = []
        self._steps: list[int] = []
        self._version: int | None = None
        self._handover: Handover | None = None
        self._leaving = Leaving()
        self._session = Session(settings.address, slots_of(settings))
        self._exported = Exported(str(self.directory))
        try:
            self._shared: SharedFolder | SharedStore = (
                SharedFolder.mark(self.directory)
                if self._copy is None
                else SharedStore(self._copy.address, self._copy.token)
            )
            meeting, self._store = self._meeting(timedelta(seconds=settings.timeout))
            self._pool = WorkerPool(
                self._store,
                settings.timeout,
                gpu=job.learner.device.startswith("cuda"),
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
            # A store in which objects are made one after the other is not written from two threads.
            self.saves_meanwhile = settings.shards > 1 and self._copy is None
            self._told = meeting.join()
            self._saving: list[str] = []
        except BaseException:
            self.close()
            raise

    @classmethod
    def detach(cls, job: Job, directory: Path, token: str) -> None:
        """Keep the loop in an actor of the Ray at `cluster.address`."""
        from cluster.detached import start

        require_lasting(directory)
        start(job, directory, token)

    def _meeting(self, timeout: timedelta) -> tuple[Rendezvous, Any]:
        """Open the workers' meeting place on this host."""
        host = self._session.host
        try:
            return Rendezvous.open(host, timeout)
        except (OSError, RuntimeError) as error:
            raise EngineError(
                f"cluster: expected to open a port on {host}, where Ray says this host is, got {error}; "
                "start Ray with the address of one of its interfaces (ray start --node-ip-address)"
            ) from error

    @property
    def places(self) -> list[Place]:
        """The workers' places, as of the last `start`."""
        return self._pool.places

    @property
    def participants(self) -> list[str]:
        """The replicas."""
        return [place.participant for place in self.places if place.shard == 0]

    @property
    def fragments(self) -> Sequence[str]:
        """Paths of the stream's fragments by number, as far as the first replica has come."""
        return self._fragments

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers, by place."""
        return self._pool.processes

    def start(self, commit: Commit | None) -> None:
        """Begin anew, or go on from a commit; who was lost is replaced.

        Who is left, and took part in the commit, goes on from its own memory.
        """
        self._version = None if commit is None else commit.version
        self._exported.committed(self._version or 0)
        self._handover = None
        with self._lost("starting"):
            self._members.begin(None if commit is None else commit.engine)
            joined = self._recruiter.form()
        with self._lost("beginning" if commit is None else "going on from the last commit"):
            if commit is None:
                self._fragments, self._steps = [], []
                self._pool.call("start", None, None, None)
                return
            anew = len(joined) == len(self.places)
            sent = ray.put(FlatTensors.of(commit.weights))
            saved = [self._saved_at(place, commit.version) for place in self.places]
            self._pool.call_each("start", [(commit.version, one, sent, anew) for one in saved])

    def _saved_at(self, place: Place, version: int) -> Saved:
        """Where what a worker goes on from is kept: its own state, or those of all before of which it takes some."""
        members = self._members
        replicas = range(members.before or 0) if members.inherits else (place.replica,)
        shards = range(members.shards_before) if members.cuts else (place.shard,)
        return Saved(
            [
                [self._kept_at(self._path(replace(place, replica=replica, shard=shard), version)) for shard in shards]
                for replica in replicas
            ],
            inherits=members.inherits,
            cuts=members.cuts,
        )

    def regroups(self) -> bool:
        """Whether there are to be more or fewer replicas from now on."""
        with self._lost("looking for more workers"):
            return self._recruiter.regroups()

    @property
    def news(self) -> Sequence[tuple[str, str, str]]:
        """Whether there are more or fewer replicas since the last commit."""
        return self._members.news

    @property
    def retired(self) -> Sequence[str]:
        """Replicas that have left, once two commits have done without them."""
        return self._members.retired

    def told(self) -> dict[str, Any]:
        """From which increment on there were how many replicas, where that may change."""
        return {} if self._members.wanted.fixed and len(self._members.log) < 2 else {"replicas": self._members.log}

    def receive(self) -> list[Arrival]:
        """Let every replica take its next increment."""
        self._handover = None
        with self._lost("receiving an increment"):
            told: list[Received | None] = self._pool.call("receive")
        received = [found for found, place in zip(told, self.places, strict=True) if place.shard == 0]
        arrivals = [found.arrival for found in received if found is not None]
        if len(arrivals) not in (0, len(received)) or len({arrival.tick for arrival in arrivals}) > 1:
            found = ", ".join("the end" if one is None else one.arrival.tick.name for one in received)
            raise StreamError(
                f"stream: expected the same increment in every replica, got {found}; "
                "did files appear while the replicas began to read? run the same command again"
            )
        self._steps = [found.steps for found in received if found is not None]
        if arrivals:
            self._members.received(arrivals[0].tick.number)
        if received[0] is not None:
            self._fragments[received[0].known :] = received[0].fragments
        return arrivals

    def learn(self, arrivals: Sequence[Arrival], rows: Mapping[str, Tensor] | None = None) -> Round:
        """Let all workers learn the increment, exchanging as often as the job says, or their rows of the history."""
        if rows is None:
            return self._learn(arrivals)
        if not rows:
            with self._lost(f"skipping {arrivals[0].tick.name}"):
                self._pool.call("skip")
            return Round()
        self._handover = None
        none = torch.empty(0, dtype=torch.int64)
        with self._lost("reviewing"):
            done = self._pool.call_each("review", [(rows.get(place.participant, none),) for place in self.places])
        return combined(done)

    def _learn(self, arrivals: Sequence[Arrival]) -> Round:
        if sum(arrival.labelled for arrival in arrivals) == 0:
            return Round()
        self._handover = None
        commits = self.job.publish.every == 1 and not self.saves_meanwhile
        with self._lost(f"learning {arrivals[0].tick.name}"):
            done = self._pool.call("learn", total_observed(arrivals), self._pace(), hands_over=commits)
        self._handover = done[0][1]
        learned = combined([learned for learned, _ in done])
        rows = sum(arrival.labelled for arrival in arrivals)
        self._exported.learned(rows, max(arrival.seconds for arrival in arrivals), learned)
        return learned

    def _pace(self) -> Pace:
        """When the replicas exchange within an increment."""
        learner = self.job.learner
        return self.job.cluster.interval.pace(self._steps, learner.batch_size * learner.accumulate)

    def order(self, orders: Orders, weights: Weights | None = None) -> None:
        """Let all workers do it."""
        self._handover = None
        with self._lost("following orders"):
            sent = None if weights is None else ray.put(FlatTensors.of(weights))
            self._pool.call("order", orders, sent)

    def save(self, version: int) -> dict[str, Any]:
        """Let all workers keep their state for this version."""
        paths = [self._path(place, version) for place in self.places]
        with self._lost(f"saving version {version}"):
            if self.saves_meanwhile:
                token = uuid4().hex[:8]
                self._saving = [f"written/{token}/{place.number}" for place in self.places]
                calls = [(version, path, key) for path, key in zip(paths, self._saving, strict=True)]
                self._pool.call_each("save_meanwhile", calls)
                return self._members.saved()
            made = self._pool.call_each("save", [(version, self._kept_at(path)) for path in paths])
        if self._copy is not None:
            for path, objects in zip(paths, made, strict=True):
                self._copy.stored(path, objects)
        return self._members.saved()

    def written(self, version: int, given_up: Callable[[], bool]) -> Weights:
        """Wait for all workers, and put the weights together that the first replica's have written."""
        if not self.saves_meanwhile:
            return self.weights()
        told = await_all(self._told, self._saving, given_up)
        first = Place(0, 1, 0, self.job.cluster.shards).of_replica()
        return take_parts([self._path(place, version) for place in first], told[0])

    def settle(self) -> None:
        """Wait until no worker is writing any more."""
        with self._lost("writing a version"):
            self._pool.call("settle")

    def committed(self, version: int) -> None:
        """Spares that were used may be made anew."""
        self._version = version
        self._exported.committed(version)
        with self._lost(f"going on after version {version}"):
            self._pool.committed()

    def not_finite(self) -> str | None:
        """The name of a weight that is not finite; each worker looks at its own part, where the whole is not needed."""
        if not self.saves_meanwhile:
            return super().not_finite()
        with self._lost("looking at the weights"):
            found: list[str | None] = self._pool.call("not_finite")
        return next(filter(None, found), None)

    def leaving(self) -> str:
        """The workers on nodes that are being drained, and whether the node of this process is one of them."""
        nodes = self._pool.nodes
        with self._lost("looking for nodes that leave"):
            here = ray.get_runtime_context().get_node_id()
            found = self._leaving.noticed({**nodes, here: ", ".join(filter(None, [nodes.get(here), "the loop"]))})
        return f"cluster: the node of {', '.join(found)} is being drained" if found else ""

    def weights(self) -> Weights:
        """The whole weights."""
        return self._handed_over().weights.tensors()

    def extra_state(self) -> dict[str, Any]:
        """What modules of the first replica keep besides tensors."""
        return self._handed_over(gathers=not self.saves_meanwhile).extra_state

    def history(self) -> Any:
        """The stream's recent outcomes, as the first replica knows them."""
        return self._handed_over(gathers=not self.saves_meanwhile).history

    def _handed_over(self, *, gathers: bool = True) -> Handover:
        """What the first replica hands over, with the weights or without; asked for once until something changes."""
        if self._handover is None or (gathers and not self._handover.weights.layout.places):
            with self._lost("gathering the weights"):
                self._handover = self._pool.call("hand_over", gathers=gathers)[0]
        assert self._handover is not None
        return self._handover

    def close(self) -> None:
        """End the workers, and Ray too if we started it."""
        if hasattr(self, "_pool"):
            self._pool.close()
        if hasattr(self, "_shared"):
            self._shared.unmark()
        self._session.close()

    def _path(self, place: Place, version: int) -> Path:
        return self.state_path(place.participant, version) / f"shard-{place.shard}"

    def _kept_at(self, path: Path) -> Path | StoredState:
        """Where a worker keeps the state that is at this path in the run: there, or in the run's store."""
        copy = self._copy
        if copy is None:
            return path
        prefix = f"objects/{copy.token}/{uuid4().hex[:8]}/{path.relative_to(copy.folder).as_posix()}"
        return StoredState(copy.address, prefix, copy.objects(path))

    @contextmanager
    def _lost(self, doing: str) -> Iterator[None]:
        """Say what the loss of a worker, or of Ray itself, means for the run."""
        try:
            require_ray()
            yield
        except RayTaskError:  # what a worker's own code, or the user's, has raised
            raise
        except (EngineError, RayError) as lost:
            stands = (
                "nothing is committed yet; run the same command again to start over"
                if self._version is None
                else f"version {self._version} is committed and intact; run the same command again to go on from it"
            )
            kind = WorkerLost if isinstance(lost, WorkerLost) else EngineError
            if kind is WorkerLost:
                self._exported.lost()
            reason = " ".join(str(lost).split())
            raise kind(f"cluster: {reason} while {doing}; {stands}") from lost


def slots_of(settings: ClusterSection) -> int:
    """How many CPUs a Ray of our own says it has: as many as there are to be workers, in a range as there are cores."""
    members = settings.members
    most = members.most
    if not members.fixed and not members.log:
        most = min(most, max(members.least, (os.cpu_count() or 1) // settings.shards))
    return most * settings.shards + settings.spares


def combined(rounds: Sequence[Round]) -> Round:
    """What all workers did at the same time, as one: sums, and the longest of their times.

    >>> one = Round({"loss": 1.0}, passes_rows=2, seconds_learning=0.5)
    >>> both = combined([one, Round({"loss": 3.0}, passes_rows=2, seconds_learning=0.25)])
    >>> both.losses, both.passes_rows, both.seconds_learning
    ({'loss': 4.0}, 4, 0.5)
    """
    losses: dict[str, float] = {}
    for done in rounds:
        for name, value in done.losses.items():
            losses[name] = losses.get(name, 0.0) + value
    return Round(
        losses,
        sum(done.passes_rows for done in rounds),
        sum(done.bytes_exchanged for done in rounds),
        max(done.seconds_learning for done in rounds),
        max(done.seconds_exchanging for done in rounds),
        max(done.seconds_hidden for done in rounds),
        [steps for done in rounds for steps in done.steps],
    )
