"""The engine whose participants are Flower clients: each learns the rows it owns, and only what it learned travels."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from federated._at_owner import ClientsAtOwner
from federated._client_blocks import ClientBlocks
from federated._cohort import ClientCohort, Terms, updates_of
from federated._message_records import CHAMPION, ROWS
from federated._owners import Owners
from federated._records import pack, told
from federated._roster import Roster
from federated._selection import Selection
from federated._server_privacy import CentralPrivacy
from federated._simulated_nodes import SimulatedNodes
from federated._wire import Wire
from incr_core.engines import Commit, Engine, Saving
from incr_core.errors import ArgumentError, JobError, RunDirectoryError
from incr_core.job import Job
from incr_core.rounds import (
    Arrival,
    Comparison,
    Contributions,
    Orders,
    Round,
    consolidate,
    personal_names,
    take_round,
    total_observed,
)
from incr_core.update import Update, Weights

__all__ = ["FederatedEngine"]


class FederatedEngine(Engine):
    """Drive clients over a Flower `Grid`; the server holds the anchor, and neither rows nor a model.

    grid: where the clients are; by default one is started as `job.federated` says. With `federated.superlink` they own
    their rows (`Owners`), otherwise they are simulated on a table that all read (`SimulatedNodes`).

    Of an increment's clients with rows to learn, some are drawn for each round (`Selection`). One that is drawn in none
    keeps its rows and offers them again with the next increment. In the warm start all take part.
    """

    name = "federated"
    at_owner = ClientsAtOwner()

    def __init__(self, job: Job, directory: Path, grid: Grid | None = None) -> None:
        super().__init__(job, directory)
        if job.objects_given:
            # A client is told the job in a message of plain values.
            raise JobError(
                f"on: expected a job whose parts have names that clients can look up, got objects of this process "
                f'({", ".join(job.objects_given)}); name models and strategies by "module:name" and rows by a path, '
                'or learn on "local" or "cluster"'
            )
        if job.cluster.memory_scope == "all":
            raise JobError(
                'cluster.memory_scope: expected "own" with --on federated, whose clients keep their rows to '
                'themselves, got "all"; leave it out (--set cluster.memory_scope=own)'
            )
        owned = job.federated.owned
        simulated = ClientBlocks if job.federated.stateless else SimulatedNodes
        self._roster: Roster = Owners(job, grid) if owned else simulated(job, directory, grid)
        if owned and job.federated.accept_failures:
            self.max_failures = MAX_FAILURES
        self._renew()

    def _renew(self) -> None:
        """Let go of what the server holds; `start` makes the clients anew."""
        self.central = None if self.job.federated.privacy is None else CentralPrivacy(self.job)
        self._make_cohort()
        self._selection = Selection(self.job.federated, self.job.learner.seed)
        self._bytes_judging = 0

    def _make_cohort(self) -> None:
        aggregation = self.job.aggregation() if self.central is None else self.central.mean
        share = self.job.federated.max_share
        self.cohort = ClientCohort(self._roster, self.job.outer_step(), aggregation, share, self.job.strategies())

    @property
    def participants(self) -> list[str]:
        """Names of the clients, in the order of their shares in every sum."""
        return self._roster.names

    @property
    def origins(self) -> Sequence[str]:
        """Names of the stream's fragments by number, as the clients have told them; or the owners of rows."""
        return self._roster.origins

    def _personal(self) -> Sequence[str]:
        """Weights that are each client's own."""
        patterns = self.job.federated.personal
        try:
            return personal_names(self.cohort.terms.rules, patterns) if patterns else ()
        except ArgumentError as error:
            raise JobError(f"federated.{error}") from error

    def told(self) -> dict[str, Any]:
        """What is known of the clients, and what was spent of a promise about them."""
        return {
            **self._roster.told(),
            **({"bytes_judging": self._bytes_judging} if self._bytes_judging else {}),
            **({} if self.central is None else {"privacy": self.central.told()}),
        }

    # -- beginning and ending ------------------------------------------------------------------------------------

    def start(self, commit: Commit | None) -> None:
        """Find the clients, and let each become itself: fresh, or as it was at a commit."""
        self._renew()
        if commit is not None and self.central is not None:
            self.central = CentralPrivacy.resumed(self.job, commit.engine["privacy"])
            self._make_cohort()
        cohort = self.cohort
        if commit is not None:
            if ("owners" in commit.engine) != isinstance(self._roster, Owners):
                raise RunDirectoryError(
                    f"{self.directory}: expected a run of clients that are as they were, got simulated ones where they "
                    "own their rows, or the other way round; choose another --out"
                )
            cohort.outer.load_state_dict(commit.engine["outer"])
            cohort.shared = dict(commit.engine["shared"])
            cohort.unconsolidated = dict(commit.engine["unconsolidated"])
            self._selection.load_state_dict(commit.engine["selection"])
        described = self._roster.start(commit)
        self._bytes_judging = 0 if commit is None else int(commit.engine.get("bytes_judging", 0))
        cohort.terms = Terms.of(described)
        self._roster.expects(Wire.of(self.job.federated), cohort.terms.rules)
        cohort.weights = described["weights"] if commit is None else commit.weights
        cohort.personal = frozenset(self._personal())
        if self.central is not None:
            self._expects(self.central, self.central.sampled(warm=False))
            self.central.check(cohort.terms, cohort.weights)
        if commit is None and "sum" in cohort.terms.shared_rules.values():
            cohort.shared = described["shared"]  # what additions are counted from

    def close(self) -> None:
        """Stop the simulated clients; nodes of a grid that was lent, and owners, stay."""
        self._roster.close()

    # -- an increment --------------------------------------------------------------------------------------------

    def receive(self) -> list[Arrival]:
        """Let the clients take their next increment."""
        if self.central is not None and not self.central.affords(self.central.sampled(warm=False)):
            told = self.central.spent()
            print(f"incr: the privacy budget is spent ({told}): nothing more is learned", file=sys.stderr, flush=True)
            return []
        # Over several increments, what clients share goes its own way until they consolidate on order.
        cohort = self.cohort
        return self._roster.receive(cohort.anchor(), None if cohort.terms.spans else cohort.shared)

    def learn(self, arrivals: Sequence[Arrival], rows: Mapping[str, Tensor] | None = None) -> Round:
        """Let the clients that are drawn learn the increment, or all of them their rows of the history."""
        roster = self._roster
        done, begun, worked = Round(), time.perf_counter(), roster.seconds
        done.contributions = self.cohort.contributions = Contributions()
        for client, arrival in enumerate(arrivals):
            if arrival.labelled:
                done.contributions.one(client).offered = arrival.labelled
        if rows is None:
            self._learn(arrivals, done)
            roster.settle(arrivals)
        elif rows:
            take_round(self.cohort, partial(self._review, rows), done)
        else:
            skipped = roster.ask("train.skip", self._choose(arrivals)[1])
            _hold_back(arrivals, skipped)
            roster.settle(arrivals, learned=False)
        done.seconds_learning = roster.seconds - worked
        done.seconds_exchanging = time.perf_counter() - begun - done.seconds_learning
        done.contributions.down, done.contributions.up = dict(roster.down), dict(roster.up)
        done.bytes_exchanged = roster.down.total() + roster.up.total()
        roster.down.clear()
        roster.up.clear()
        done.cpu_seconds, done.memory = roster.cpu_seconds, roster.memory
        roster.cpu_seconds = roster.memory = 0.0
        for client, why in roster.failed:
            done.contributions.failed(client, why)
        roster.failed = []
        return done

    def _learn(self, arrivals: Sequence[Arrival], done: Round) -> None:
        rounds, learners = self._choose(arrivals)
        if not rounds:
            return
        cohort, begun = self.cohort, set[int]()
        cohort.absorb(total_observed([arrivals[client] for client in learners]))
        for number, drawn in enumerate(rounds):
            if self.central is not None and not self._pays(self.central, arrivals):
                break
            take_round(cohort, partial(self._advance, number, drawn, begun), done)
        # Of who was lost before it learned, the statistics come again, with its rows.
        cohort.retract(total_observed([arrivals[client] for client in learners if client not in begun]))
        _hold_back(arrivals, begun)
        if cohort.terms.consolidates or cohort.terms.spans:
            # Not what they passed over: each row taught strategies once, however many passes and rounds there were.
            for client in sorted(begun):
                rows = cohort.unconsolidated.get(client, 0) + arrivals[client].labelled
                cohort.unconsolidated[client] = rows
        if cohort.terms.consolidates:
            consolidate(cohort)

    def _pays(self, central: CentralPrivacy, arrivals: Sequence[Arrival]) -> bool:
        """Whether a round can be paid, which it is then; an event tells of the last one."""
        sampled = central.sampled(any(arrival.tick.warm for arrival in arrivals))
        self._expects(central, sampled)
        paid = central.pay(sampled)
        if not central.affords(central.sampled(warm=False)) and not central.told_spent:
            central.told_spent = True
            self._roster.news.append(("budget spent", central.spent(), "nothing more is learned"))
        return paid

    def _expects(self, central: CentralPrivacy, sampled: float) -> None:
        """For the next round, in which each client that learns takes part with this probability."""
        central.expects(len(self._roster.names) - len(self._roster.held_out), sampled)

    def _advance(self, number: int, drawn: Sequence[int], begun: set[int]) -> list[Update]:
        asked = self._roster.answering(drawn, number)
        orders = self._roster.batched(asked, [{"first": client not in begun, **self._coded} for client in asked])
        whom = self._roster.whom(asked, number)
        anchor = self.cohort.anchor()
        answers = self._roster.ask("train.learn", asked, orders=orders, records=whom, anchor=anchor)
        self._selection.answered(drawn, answers)
        begun.update(answers)
        return self._updates(answers, anchor)

    def _review(self, rows: Mapping[str, Tensor]) -> list[Update]:
        names = self._roster.names
        drawn = [client for client in self._roster.there if len(rows.get(names[client], ()))]
        ids = [{ROWS: pack({"rows": rows[names[client]]})} for client in drawn]
        anchor, shared = self.cohort.anchor(), self.cohort.shared
        answers = self._roster.ask("train.review", drawn, self._coded, anchor=anchor, shared=shared, records=ids)
        return self._updates(answers, anchor)

    @property
    def _coded(self) -> dict[str, Any]:
        """How clients code their updates, as entries of an order; none where weights travel unchanged."""
        wire = Wire.of(self.job.federated)
        return {} if wire is None else wire.order()

    def _updates(self, answers: Mapping[int, RecordDict], anchor: Weights) -> list[Update]:
        self.cohort.learners = list(answers)
        return updates_of(answers, anchor)

    def order(self, orders: Orders, weights: Weights | None = None) -> None:
        """Let all clients do it; those that have learned since they consolidated do so again."""
        cohort = self.cohort
        if orders.consolidate and cohort.unconsolidated:
            consolidate(cohort)
        if orders:
            # What was merged must be there for the next step; the next increment's first message may come after it.
            shared = cohort.shared if orders.consolidate else None
            anchor = cohort.anchor() if shared else None
            order = {"orders": json.dumps(asdict(orders))}
            self._roster.ask("train.follow", self._roster.there, order, anchor=anchor, shared=shared)
        if weights is not None:
            cohort.adopt(weights)

    def _choose(self, arrivals: Sequence[Arrival]) -> tuple[list[list[int]], list[int]]:
        """The clients of each round, and all of them; the arrivals of others tell no rows any more."""
        rows = self._roster.candidates(arrivals)
        warm = any(arrival.tick.warm for arrival in arrivals)
        if self.central is None or warm or self.job.federated.fraction == 1.0:
            rounds = self._selection.rounds(rows, all_of_them=warm)
        else:
            rounds = [self.central.drawn(list(rows)) for _ in range(self.job.federated.rounds if rows else 0)]
        rounds = self._roster.take_up(rounds, arrivals)
        learners = sorted({client for drawn in rounds for client in drawn})
        for client in learners:
            self.cohort.contributions.one(client).offered = arrivals[client].labelled
        _hold_back(arrivals, learners)
        return rounds, learners

    def judge(self) -> list[Tensor]:
        """Let all clients that are there judge the anchor."""
        with self._counted_apart():
            answers = self._roster.ask("evaluate.judge", self._roster.there, anchor=self.cohort.anchor())
        return [told(answer)["judged"] for answer in answers.values()]

    def compare(self, champion: Weights) -> list[Comparison]:
        """Let all clients that are there compare the anchor with the champion."""
        there, record = self._roster.there, {CHAMPION: pack(champion)}
        records = [record for _ in there]
        with self._counted_apart():
            answers = self._roster.ask("evaluate.compare", there, anchor=self.cohort.anchor(), records=records)
        return [Comparison(**told(answer)) for answer in answers.values()]

    @contextmanager
    def _counted_apart(self) -> Iterator[None]:
        """Count the bytes of judging a version as the run's, not as an increment's.

        A run that is stopped commits, and judges, more versions than one that goes on; what an increment costs does not
        depend on that.
        """
        roster = self._roster
        before = roster.down.copy(), roster.up.copy()
        yield
        for counted, known in zip((roster.down, roster.up), before, strict=True):
            self._bytes_judging += counted.total() - known.total()
            counted.clear()
            counted.update(known)

    def save(self, version: int) -> Saving:
        """Let every client keep its state for this version, on its own disk.

        The server's is what the roster knows, the outer step's state, the draw, and what strategies share.
        """
        news = list(self._roster.news)
        state = {
            **self._roster.save(version),
            "outer": self.cohort.outer.state_dict(),
            "selection": self._selection.state_dict(),
            "shared": self.cohort.shared,
            "unconsolidated": self.cohort.unconsolidated,
            "bytes_judging": self._bytes_judging,
            **({} if self.central is None else {"privacy": self.central.state_dict()}),
        }
        return Saving(
            lambda given_up: self.weights(),
            state=state,
            swept=self.participants,
            extra_state={},
            personal=self._personal(),
            news=news,
        )

    def weights(self) -> Weights:
        """The anchor."""
        return self.cohort.weights


MAX_FAILURES = 10
"""How often in a row owners may be too few before a run ends."""


def _hold_back(arrivals: Sequence[Arrival], learners: Sequence[int] | set[int] | Mapping[int, Any]) -> None:
    """Rows of clients that do not learn are held back by them, and told again when they are offered again."""
    for client, arrival in enumerate(arrivals):
        if client not in learners:
            arrival.rows = arrival.rows[:0]
