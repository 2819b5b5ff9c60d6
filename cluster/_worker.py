"""One shard of one replica: a `Contributor` whose peers are on the cluster.

It does not depend on Ray. The pool makes it an actor.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cluster import _process_groups as groups
from cluster._background_writes import StateWriter, write_shard
from cluster._exchange import ReplicaExchange
from cluster._fsdp_units import explaining_uncalled
from cluster._heartbeat import RECEIVING, WAITING, WORKING, Heartbeat
from cluster._memory_lending import PeerLending
from cluster._node_versions import require_same
from cluster._peer_transfer import PeerTurns
from cluster._peers import Peers
from cluster._processes import Process
from cluster._rank import Rank
from cluster._rendezvous import Rendezvous, own_address, use_interface_to
from cluster._shared_store import StoredState
from cluster._worker_messages import Due, Handover, LearnedHere, Received, Saved, SavedAt, Setup
from incr_core.data.timeline import Blocks, ByHash, Partition
from incr_core.errors import EngineError, JobError
from incr_core.job import Job
from incr_core.numerics import FlatTensors, all_finite, local, settle_arithmetic, whole
from incr_core.registry import STAY
from incr_core.rounds import Alone, Comparison, Contributor, Exchange, Orders, Participant, Round, SavedState
from incr_core.storage import checkpoint
from incr_core.update import Weights

__all__ = ["ShardWorker", "partition_of"]

BEATS = 5
"""Signs of life within the timeout."""

PATIENCE = 10
"""Timeouts that one message may take. The driver ends a lost peer, and so its connections, long before."""


class ShardWorker:
    """Holds one shard of one replica once it is built. Until then it is a spare."""

    def warm(self) -> Process:
        """Return the process, after importing all that a worker needs, including torch's compiler, which optimisers
        import."""
        torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        return Process.own()

    def build(self, rank: Rank, key: str, generation: int, run: Setup) -> Process:
        """Take a rank, build the participant, and return the process.

        This is not done at construction, so that an error of the job arrives as itself and not as a dead actor.

        Args:
            key: Key in the store for signs of life.
            generation: The generation that begins.
        """
        require_same(run.versions, str(rank))
        run.directory.require(str(rank))
        meeting = run.meeting
        self.rank, job = rank, Job.from_document(run.document, objects=run.objects)
        if run.reads_files and job.files() is None:
            raise JobError(
                f"cluster: expected {rank} on {socket.gethostname()} to read the stream's files at {job.stream.path}, "
                "as the loop's host does, got none there; put them on storage that all nodes share, at the same path"
            )
        settle_arithmetic(job.learner.threads, job.learner.device)
        self._wait = PATIENCE * meeting.timeout
        try:
            use_interface_to(meeting.host)
            # A separate connection: a wait for peers on the other one must not delay the heartbeat.
            self._heartbeat = Heartbeat(meeting.join(), key, job.cluster.timeout / BEATS)
            self._peers = Peers(meeting.join(), self._heartbeat, generation)
            within: Exchange = Alone()
            if rank.shards > 1:
                self._peers.meet(f"build replica {rank.replica}", rank.shards)
                groups.inside_replica(rank, self._peers.store, generation, job.learner.device, self._wait)
                within = ReplicaExchange(dist.group.WORLD, rank.shard, rank.shards, self._peers.wait)
            self._turns = self._turns_among(meeting, job, "rows read")
            self._lending: PeerLending | None = None
            if job.cluster.memory_scope == "all":
                turns = self._turns_among(meeting, job, "rows remembered", bounded=False)
                self._lending = PeerLending(turns, self._peers, rank)
        except (OSError, RuntimeError) as error:  # torch's errors of stores and groups are RuntimeErrors
            raise EngineError(
                f"{rank}: expected the driver at {meeting.host}:{meeting.port} and all workers there, got "
                f"{str(error).splitlines()[0]}; let the nodes of the cluster reach one another on all ports"
            ) from error

        self._job, self._within, self._seed = job, within, rank.replica
        self._writer = StateWriter(meeting.join(), PATIENCE * job.cluster.timeout)
        self._directory, self._beside_loop = run.directory, run.loop.is_here
        self.contributor = self._made()
        self._origins_told = 0
        self._kept: int | None = None  # the version whose state it has kept, and older ones beside it
        return Process.own()

    def _turns_among(self, meeting: Rendezvous, job: Job, what: str, *, bounded: bool = True) -> PeerTurns:
        """Return a channel through which workers exchange data that one of them has."""
        number, count = self.rank.number, self.rank.replicas * self.rank.shards
        host, patience = own_address(meeting.host), job.cluster.timeout
        return PeerTurns(number, count, host, meeting.join, patience, what=what, bounded=bounded)

    def _made(self) -> Contributor:
        """Build this worker's contributor, which has begun nothing and is connected to no peer."""
        rank, job = self.rank, self._job

        def participant() -> Participant:
            made = job.participant(
                rank.participant,
                self._seed,
                partition_of(job, rank),
                (lambda model: groups.shard_model(model, rank, job.learner.device)) if rank.shards > 1 else None,
                (rank.shard, rank.shards),
                turns=self._turns,
            )
            made.learner.descent.scaled = job.cluster.rate_of(rank.replicas)
            return made

        between: Exchange = Alone()
        if rank.replicas > 1:
            between = ReplicaExchange(None, rank.replica, rank.replicas, self._peers.wait, job.cluster.wire)
        return Contributor(
            participant,
            job.outer_step,
            between,
            self._within,
            keeps=True,
            overlaps=job.cluster.overlap,
            lending=self._lending,
            fragments=job.cluster.fragments,
        )

    def join(self, generation: int, replicas: int) -> None:
        """Connect to the other replicas, of which there may be more or fewer than before. A generation begins."""
        peers = self._peers
        peers.generation = generation
        exchange = self.contributor.exchange
        if isinstance(exchange, ReplicaExchange) and exchange.group is not None:
            exchange.group.abort()  # no message of the last generation may arrive later
        if replicas != self.rank.replicas:
            self.rank = replace(self.rank, replicas=replicas)
            self.contributor.participant.close()
            self._turns.among(self.rank.number, replicas * self.rank.shards)
            if self._lending is not None:
                self._lending.among(self.rank)
            self.contributor = self._made()
        rank = self.rank
        if isinstance(self.contributor.exchange, ReplicaExchange):
            peers.meet(f"join shard {rank.shard}", rank.replicas)
            with self._heartbeat.doing(WORKING):
                self.contributor.exchange.group = groups.between_replicas(
                    rank, peers.store, generation, self._job.learner.device, self._wait
                )

    def start(
        self,
        version: int | None,
        saved: SavedAt | None,
        weights: FlatTensors | None,
        found: bool = True,
    ) -> None:
        """Begin, or continue from a version: from memory if it was kept there, else from these weights and the saved
        state.

        Args:
            found: Whether to include files found since. A worker that joins others that have begun must not.
        """
        self._origins_told = 0  # messages since the commit may never have arrived
        if self.contributor.go_back(version):
            return
        self._turns.begin()
        if saved is None or weights is None:
            self.contributor.start(None, None)
            return
        whole = weights.tensors(copy=False)
        with saved.here() as states:
            if saved.inherits and version is not None:
                self._inherit(version, states, whole, found=found)
            else:
                self.contributor.start(states[0], whole, found=found)

    def _inherit(self, version: int, saved: Sequence[SavedState], weights: Weights, *, found: bool) -> None:
        rank = self.rank
        if rank.replica >= len(saved) and self._seed == rank.replica:
            self._seed += version << 20  # a replica that rejoins draws other random numbers
            before, self.contributor = self.contributor.exchange, self._made()
            if isinstance(before, ReplicaExchange) and isinstance(self.contributor.exchange, ReplicaExchange):
                self.contributor.exchange.group = before.group
        self.contributor.inherit(saved, weights, rank.replica, rank.replicas, found=found)

    def receive(self) -> Received | None:
        """Take the next increment. Returns None at the end of the stream, and on all shards but a replica's first."""
        with explaining_uncalled(self.contributor.participant.learner.model), self._heartbeat.doing(RECEIVING):
            arrival = self.contributor.receive()
            if self._kept is not None:
                self._let_go(self._kept)
                self._kept = None
        if arrival is None or self.rank.shard > 0:
            return None
        participant = self.contributor.participant
        steps = participant.learner.steps_in(arrival.labelled, participant.passes())
        known = self._origins_told
        origins = list(participant.stream.fragments[known:]) if self.rank.replica == 0 else []
        self._origins_told += len(origins)
        return Received(arrival, steps, known, origins)

    def learn(self, told: bytes, due: Due | None = None) -> LearnedHere:
        """Learn the current increment, in the rounds of a pace.

        `told` is the sum of all replicas' observations of the increment, and the pace, packed.

        Args:
            due: Further work for a commit that follows. Each item saves a call.
        """
        observed, pace = pickle.loads(told)
        with explaining_uncalled(self.contributor.participant.learner.model), self._heartbeat.doing(WORKING):
            done = self.contributor.learn(observed.tensors(copy=False), pace)
            if due is None:
                return LearnedHere(done)
            handover, not_finite = self.hand_over(gathers=due.gathers), None if due.gathers else self.not_finite()
            self._kept = due.version
            saved = None if due.version is None else self._save(due.version)
            return LearnedHere(done, handover, saved, not_finite)

    def review(self, rows: Tensor) -> Round:
        """Learn rows of the history again, in one round."""
        with explaining_uncalled(self.contributor.participant.learner.model), self._heartbeat.doing(WORKING):
            return self.contributor.review(rows)

    def judge(self) -> Tensor:
        """Compare the weights with the champion's."""
        with self._heartbeat.doing(WORKING):
            return self.contributor.judge()

    def compare(self, champion: FlatTensors) -> Comparison:
        """Compare the weights with the champion's on the rows held back."""
        with self._heartbeat.doing(WORKING):
            return self.contributor.compare(champion.tensors(copy=False))

    def skip(self) -> None:
        """Drop the rows of the current increment."""
        self.contributor.skip()

    def order(self, orders: Orders, weights: FlatTensors | None) -> None:
        """Apply the actions, then set these weights."""
        with self._heartbeat.doing(WORKING):
            self.contributor.order(orders, None if weights is None else weights.tensors(copy=False))

    def save_meanwhile(self, version: int, key: str) -> None:
        """Keep this worker's state for a version in memory, and write it while learning continues.

        The key in the store is set once the state is on disk.
        """
        with self._heartbeat.doing(WORKING):
            self._writer.settle()
            snapshot, hands_over = self.contributor.snapshot(version), self.rank.replica == 0
            live = self.contributor.participant.learner.weights()
            path = self._directory.state(self.rank, version)
            assert isinstance(path, Path), "in an object store workers save before they go on"
            cut = [name for name, value in live.items() if local(value) is not value]

        def write() -> dict[str, Any]:
            told = write_shard(path, snapshot.weights, cut) if hands_over else {}
            snapshot.write(path)
            self._let_go(version)
            return told

        self._writer.begin(write, key)

    def settle(self) -> None:
        """Wait until the write that `save_meanwhile` began has ended. Raises its error."""
        with self._heartbeat.doing(WORKING):
            self._writer.settle()

    def not_finite(self) -> str | None:
        """Name of a weight with non-finite values in this worker's part; None if there is none."""
        weights = self.contributor.participant.learner.weights()
        return next((name for name, value in weights.items() if not all_finite(local(value))), None)

    def save(self, version: int) -> Saved:
        """Keep this worker's state for a version, on disk or in a store, and in memory.

        On the loop's own host it does not sync the files. The loop syncs those of all workers at once.
        """
        saved = self._save(version)
        self._let_go(version)
        return saved

    def _save(self, version: int) -> Saved:
        """Save as `save` does, but do not remove old states yet."""
        state = self._directory.state(self.rank, version)
        if isinstance(state, StoredState):
            with self._heartbeat.doing(WAITING), state.keeping() as folder, self._heartbeat.doing(WORKING):
                self.contributor.save(folder, version)
            return Saved(state.made)
        with self._heartbeat.doing(WORKING), ExitStack() as stack:
            unsynced = stack.enter_context(checkpoint.unsynced()) if self._beside_loop else []
            self.contributor.save(state, version)
            return Saved(unsynced=unsynced)

    def _let_go(self, version: int) -> None:
        """Remove the states that are older than this version's, unless the loop keeps some of them for longer.

        The previous version is committed, or this version would not be saved.
        """
        if not self._job.publish.keeps_older:
            self._directory.let_go(self.rank, version - STAY)

    def hand_over(self, *, gathers: bool = True) -> Handover | None:
        """Return the content of a commit, from the first worker. The shards of its replica gather the weights with it.

        Args:
            gathers: False for everything but the weights, if their parts are written to disk.
        """
        if self.rank.replica > 0:
            return None
        participant = self.contributor.participant
        weights = participant.learner.weights() if gathers else {}
        gathered = {name: whole(value) for name, value in weights.items()}
        if self.rank.shard > 0:
            return None
        return Handover(FlatTensors.of(gathered), participant.learner.extra.state_dict(), participant.stream.history())


def partition_of(job: Job, rank: Rank) -> Partition | None:
    """The rows of the stream that a replica owns; None for all rows, exactly as in the local engine."""
    replica, replicas, by = rank.replica, rank.replicas, job.cluster.partition
    if replicas == 1 and job.cluster.members.fixed:
        return None
    return Blocks(replica, replicas, job.learner.batch_size) if by == "blocks" else ByHash(by, replica, replicas)
