"""The learning part of a contributor: rounds of its participant and the exchange with peers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

from incr_core.batch import Limit
from incr_core.numerics import local
from incr_core.rounds._account import Account
from incr_core.rounds._arrival import Arrival
from incr_core.rounds._borrowing import Lending, borrowed
from incr_core.rounds._comparison import Comparison
from incr_core.rounds._delayed_mean import DelayedMean
from incr_core.rounds._exchange import Alone, Exchange
from incr_core.rounds._fragments import Fragments, fragments_of
from incr_core.rounds._orders import Orders
from incr_core.rounds._outer import Outer
from incr_core.rounds._pace import EverySteps, Pace
from incr_core.rounds._participant import Participant
from incr_core.rounds._round import Consolidated, Round, consolidate, take_round
from incr_core.update import Update, Weights

__all__ = ["Exchanging"]


ONCE = EverySteps()
"""A single round of all available steps."""


class Exchanging:
    """The learning part of a contributor: the `Cohort` of its participant and its peers, from its own point of view.

    Every contributor takes the outer step itself, on its shard. The step is the same function of the same numbers
    everywhere, so the result need not be sent.

    Args:
        make: Creates the participant; called again when a run returns to a commit.
        outer: Creates the outer step; likewise.
        exchange: Exchange with the same shard of the other replicas.
        within: Exchange with the other shards of this replica.
        keeps: Whether to keep saved state in memory as well, for rolling back.
        overlaps: Whether a round is exchanged while the next is learned (`DelayedMean`).
        lending: Transfer of remembered rows between replicas; None draws from the own memory only.
        fragments: Number of fragments of the weights, each exchanged in its own round (`Fragments`).
    """

    def __init__(
        self,
        make: Callable[[], Participant],
        outer: Callable[[], Outer],
        exchange: Exchange,
        within: Exchange | None = None,
        *,
        keeps: bool = False,
        overlaps: bool = False,
        lending: Lending | None = None,
        fragments: int = 1,
    ) -> None:
        self._make, self._make_outer = make, outer
        self._lending = lending
        self.exchange = exchange
        self._keeps, self._overlaps, self._fragments = keeps, overlaps, fragments
        self._within = Alone() if within is None else within
        self._account = Account(exchange, lending)
        self._prepare()

    def _prepare(self) -> None:
        self.participant = self._make()
        self.participant.keeps_increments = self._keeps
        self.outer = self._make_outer()
        self._fresh = True  # learning has not begun
        self._summed: Weights | None = None  # last merged shared state with the rule "sum"
        self.rules = self.participant.learner.rules()
        # Only trained weights are rounded in transfer or delayed: not buffers or counts.
        learned = {f"model.{name}" for name in self.participant.learner.context.names}
        self._steered = {name for name, rule in self.rules.items() if name in learned and rule == "mean"}
        self._left = {
            name: torch.zeros(value.shape, device=value.device)
            for name, value in (self._weights() if self.exchange.rounds else {}).items()
            if name in self._steered and value.dtype in self.exchange.rounds
        }
        # Weights are copied to the anchor only if the merge or the outer step needs them.
        self._anchored = {
            name
            for name, rule in self.rules.items()
            if self.outer.needs_anchor
            or name in self._left
            or (rule == "sum" and self.exchange.size * self._within.size > 1)
        }

    @property
    def remakes(self) -> bool:
        """Whether strategies change weights when they consolidate, and there are peers to merge them with."""
        return self.participant.learner.remakes and self.exchange.size > 1

    def receive(self) -> Arrival | None:
        """Take the next increment; return None at the end of the stream."""
        self._fresh = False
        self.participant.usage.begin()
        return self.participant.receive()

    def learn(self, observed: Weights, pace: Pace = ONCE) -> Round:
        """Learn the current increment, in the rounds given by `pace`.

        Args:
            observed: Sum of all arrivals' additions to running statistics.
            pace: The rounds.
        """
        self._account.begin()
        learner, done, taken = self.participant.learner, Round(), list[int]()
        learner.absorb(observed)
        if self._summed is None:
            state, rules = learner.shared_state()
            self._summed = {name: value.clone() for name, value in state.items() if rules[name] == "sum"}
        assert self.participant.increment is not None, "receive an increment before learning it"
        several = self.exchange.size > 1 and pace.rounds != 1 and bool(self._steered)
        with self._borrowed(len(self.participant.increment.labelled) * self.participant.passes()):
            if several and self._overlaps:
                self._overlap(pace, taken, done)
            elif several and self._fragments > 1:
                self._stagger(pace, taken, done)
            else:
                while self._goes_on(pace, len(taken)):
                    take_round(self, partial(self._advance, pace, taken), done)
        if pace.records and learner.shard[0] == 0:
            done.steps.append(taken)
        if self.participant.consolidates:
            consolidate(self)
        return self._accounted(done)

    def review(self, rows: Tensor) -> Round:
        """Learn rows of the history, by their ids (n,), once more, in one round."""
        self._account.begin()
        done = Round()
        with self._borrowed(len(rows)):
            take_round(self, lambda: [self._local(self.participant.review(rows))], done)
        return self._accounted(done)

    def judge(self) -> Tensor:
        """Compare the weights with the champion's. All shards of a replica have the same rows, so only the first
        counts.
        """
        judged = self.participant.judge()
        return judged if self.participant.learner.shard[0] == 0 else torch.zeros_like(judged)

    def compare(self, champion: Weights) -> Comparison:
        """Compare the weights with the champion's on the rows held back; the first shard of a replica reports."""
        compared = self.participant.compare(champion)
        return compared if self.participant.learner.shard[0] == 0 else Comparison()

    def skip(self) -> None:
        """Drop the rows of the current increment."""
        self.participant.skip()

    def order(self, orders: Orders, weights: Weights | None = None) -> None:
        """Follow orders, then adopt these weights."""
        if orders.consolidate:
            consolidate(self)
        self.participant.follow(orders)
        if weights is not None:
            self.participant.learner.adopt(weights)
            self._settle()

    # -- the cohort ----------------------------------------------------------------------------------------------

    def anchor(self) -> Weights:
        """Return the current weights, with copies of those that the merge or the outer step needs."""
        return {name: value.clone() if name in self._anchored else value for name, value in self._weights().items()}

    def merge(self, updates: Sequence[Update], anchor: Weights, *, exactly: bool = False) -> tuple[Weights, int]:
        """Return the mean of the update and its peers'. An exact merge also clears the rounding residue."""
        with_peers = time.perf_counter()
        if self._within.size > 1 and self.participant.learner.divides and updates[0].num_rows:
            self._merge_buffers(anchor)
        if self.exchange.size > 1:
            self.participant.learner.share_ids(anchor)
        left = {} if exactly else {name: value for name, value in self._left.items() if name in updates[0].weights}
        merged = self.exchange.mean(updates[0], anchor, self.rules, left)
        if exactly:
            self._settle()
        self._account.exchanging += time.perf_counter() - with_peers
        return merged

    def _settle(self) -> None:
        """Clear the rounding residue, because all weights are now equal everywhere."""
        for value in self._left.values():
            value.zero_()

    @torch.no_grad()
    def _merge_buffers(self, anchor: Weights) -> None:
        """Merge the buffers that this replica's shards have changed in forwards, each on its shard of the rows."""
        weights = self.participant.learner.weights()
        buffers = {name: value for name, value in weights.items() if local(value) is value}
        if buffers:
            merged, _ = self._within.mean(Update(buffers, num_rows=1), anchor, self.rules)
            for name, value in merged.items():
                buffers[name].copy_(value)

    @torch.no_grad()
    def adopt(self, weights: Weights) -> None:
        """Adopt these weights, of this contributor's shard."""
        for name, mine in self._weights().items():
            if mine.data_ptr() != weights[name].data_ptr():
                mine.copy_(weights[name])
        self.participant.learner.adopted()

    def consolidate(self) -> Consolidated:
        """Let the strategies consolidate on this contributor's rows."""
        rows = self.participant.unconsolidated
        state = self.participant.consolidate()
        return Consolidated([rows], [state], [Update(self._weights, rows)])

    def merge_shared(self, made: Consolidated) -> None:
        """Merge the strategies' shared state with the peers."""
        if self.exchange.size > 1 and made.states[0]:
            with_peers = time.perf_counter()
            learner = self.participant.learner
            rules = learner.shared_state()[1]
            merged = self.exchange.shared(dict(made.states[0]), made.rows[0], self._summed or {}, rules)
            self._account.exchanging += time.perf_counter() - with_peers
            learner.adopt_shared(merged)
        self._summed = None

    def derive(self) -> None:
        """Let the strategies derive weights from the merged state; all workers compute the same ones."""
        self.participant.learner.derive()

    # -- within a round ------------------------------------------------------------------------------------------

    def _borrowed(self, rows: int) -> AbstractContextManager[None]:
        """Return a context in which remembered rows are drawn from the memories of all replicas, if configured."""
        lending, learner = self._lending, self.participant.learner
        if lending is None or self.exchange.size == 1:
            return nullcontext()
        return borrowed(learner, self.exchange, lending, rows, -(-rows // learner.batch_size))

    def _overlap(self, pace: Pace, taken: list[int], done: Round) -> None:
        """Learn all rounds of an increment, each exchanged while the next is learned; buffers are merged at the end."""
        anchor = self.anchor()
        delayed = DelayedMean(
            self._learned_weights,
            lambda update, base: self.exchange.mean(update, base, self.rules, self._left),
            lambda base, mean: self.outer.step(base, mean, self.rules),
        )
        rows = delayed.learn(partial(self._take, pace, taken, done), lambda: self._goes_on(pace, len(taken)))
        done.seconds_hidden = delayed.seconds_hidden
        self._account.exchanging += delayed.seconds_waited
        self._merge_others(anchor, rows)

    def _stagger(self, pace: Pace, taken: list[int], done: Round) -> None:
        """Learn all rounds of an increment, each followed by the exchange of one fragment; buffers are merged at the
        end.
        """
        anchor = self.anchor()
        fragments = Fragments(
            self._weights,
            fragments_of({name: value.nbytes for name, value in self._learned_weights().items()}, self._fragments),
            self._merge_fragment,
            lambda base, mean: self.outer.step(base, mean, self.rules),
        )
        rows = fragments.learn(partial(self._take, pace, taken, done), lambda: self._goes_on(pace, len(taken)))
        self._merge_others(anchor, rows)

    def _take(self, pace: Pace, taken: list[int], done: Round) -> int:
        """Learn a round that is not exchanged by `merge`; return its number of rows."""
        updates = self._advance(pace, taken)
        done.add(updates)
        return updates[0].num_rows

    def _learned_weights(self) -> Weights:
        """Return the trained weights, which are averaged."""
        return {name: value for name, value in self._weights().items() if name in self._steered}

    def _merge_fragment(self, update: Update, base: Weights) -> tuple[Weights, int]:
        with_peers = time.perf_counter()
        left = {name: value for name, value in self._left.items() if name in update.weights}
        merged = self.exchange.mean(update, base, self.rules, left)
        self._account.exchanging += time.perf_counter() - with_peers
        return merged

    def _merge_others(self, anchor: Weights, rows: int) -> None:
        """Merge buffers and counts over the rows of all rounds; afterwards all contributors have equal weights."""
        buffers = {name: value for name, value in self._weights().items() if name not in self._steered}
        if buffers:
            merged, total = self.merge([Update(buffers, rows)], anchor)
            if total:
                following = self.outer.step(anchor, merged, self.rules)
                torch._foreach_copy_([buffers[name] for name in following], list(following.values()))
        self.participant.learner.adopted()

    def _goes_on(self, pace: Pace, rounds: int) -> bool:
        """Whether another round follows after `rounds` rounds."""
        learner = self.participant.learner
        if pace.rounds is not None:
            return rounds < pace.rounds
        return rounds == 0 or self.exchange.total(learner.steps.left, learner.device) > 0

    def _advance(self, pace: Pace, taken: list[int]) -> list[Update]:
        """Take the steps of a round, and record their number; the first begins here, after its anchor was taken."""
        if not taken:
            self.participant.begin()
        steps = self.participant.learner.steps
        before = steps.left
        update = self.participant.advance(self._agreed(pace.limit(len(taken), self.exchange.rank)))
        taken.append(before - steps.left)
        return [self._local(update)]

    def _agreed(self, limit: Limit) -> Limit:
        """Return a limit that holds for all shards of a replica, which take steps together: the clock of the first
        decides.
        """
        learner = self.participant.learner
        if not callable(limit) or self._within.size == 1:
            return limit
        own = limit
        return lambda: self._within.total(int(self._within.rank == 0 and own()), learner.device) > 0

    def _local(self, update: Update) -> Update:
        return Update({name: local(value) for name, value in update.weights.items()}, update.num_rows, update.losses)

    def _weights(self) -> Weights:
        """Return the weights of this contributor's shard, as live views."""
        return {name: local(value) for name, value in self.participant.learner.weights().items()}

    def _accounted(self, done: Round) -> Round:
        # The shards of a replica learn the same rows: only the first counts them, and each reports its share of the
        # loss.
        rank, shards = self.participant.learner.shard
        if shards > 1:
            done.passes_rows *= rank == 0
            done.losses = {name: value / shards for name, value in done.losses.items()}
        self._account.settle(done)
        done.cpu_seconds, done.memory = self.participant.usage.spent()
        return done
