"""The clients as a server sees them: it holds the anchor and merges what they contribute, without rows or a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from flwr.app import RecordDict
from torch import Tensor

from federated._known_tensors import tensors_of
from federated._message_records import SHARED
from federated._records import told
from federated._roster import Roster
from incr_core.models import absorb_ids, is_id_count, kept_in_id_tables, retracted
from incr_core.rounds import Aggregation, Consolidated, Contributions, Outer, capped, capped_rows
from incr_core.strategies import Strategy, derived
from incr_core.update import Update, Weights

__all__ = ["ClientCohort", "Terms", "updates_of"]


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms clients merge: the rules of weights and of what strategies share, if they share anything.

    consolidates: strategies do so after each increment; spans: over several, when told to. remakes: it changes weights.
    """

    rules: dict[str, str]
    shared_rules: dict[str, str]
    consolidates: bool
    spans: bool
    shares: bool
    remakes: bool

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Terms:
        """Those that a client has told."""
        return cls(**{field.name: described[field.name] for field in fields(cls)})


class ClientCohort:
    """The `Cohort` of all clients, seen from the server.

    roster: who the clients are. outer: the outer step, which the server takes for all. aggregation: what makes one set
    of weights of their updates. max_share: what one of them may weigh in that at most, where it is a mean by rows.
    strategies: those of the job, which derive weights from what clients share here, since no client has to be believed.
    weights: the anchor, what all stand at; and, as they were at first, those that are each client's own (personal).
    shared: the strategy state that was merged last.
    unconsolidated: client -> rows it learned since it consolidated; those are who consolidates next.
    contributions: what each client has contributed to the increment at hand. learners: who has in the round at hand.
    """

    def __init__(
        self,
        roster: Roster,
        outer: Outer,
        aggregation: Aggregation,
        max_share: float | None = None,
        strategies: Sequence[Strategy] = (),
    ) -> None:
        self.max_share = max_share
        self.strategies = strategies
        self.roster = roster
        self.outer = outer
        self.aggregation = aggregation
        self.terms = Terms({}, {}, consolidates=False, spans=False, shares=False, remakes=False)
        self.weights: Weights = {}
        self.personal: frozenset[str] = frozenset()
        self.shared: dict[str, Tensor] = {}
        self.unconsolidated: dict[int, int] = {}
        self.contributions, self.learners = Contributions(), list[int]()

    @property
    def rules(self) -> Mapping[str, str]:
        """How each of the weights merges."""
        return self.terms.rules

    @property
    def remakes(self) -> bool:
        """Whether strategies change weights when they consolidate."""
        return self.terms.remakes

    def absorb(self, observed: Mapping[str, Tensor]) -> None:
        """Add the statistics of rows about to be learned to the running ones."""
        tables = kept_in_id_tables(self.weights) if any(map(is_id_count, observed)) else []
        weights = [name.replace(".keys", ".weight") for name in tables if name.endswith(".keys")]
        added = [name for name in observed if not is_id_count(name)]
        self.weights = self.weights | {name: self.weights[name].clone() for name in [*tables, *weights, *added]}
        absorb_ids(self.weights, observed)
        for name, value in observed.items():
            if not is_id_count(name):
                self.weights[name] += value

    def retract(self, observed: Mapping[str, Tensor]) -> None:
        """Take back the statistics of rows that were not learned after all."""
        self.absorb({name: retracted(value) if is_id_count(name) else -value for name, value in observed.items()})

    def anchor(self) -> Weights:
        """The weights all stand at; clients learn on copies of their own."""
        return {name: value for name, value in self.weights.items() if name not in self.personal}

    def merge(self, updates: Sequence[Update], anchor: Weights, *, exactly: bool = False) -> tuple[Weights, int]:
        """The aggregate of all clients' updates, and their rows."""
        weighed = updates if self.max_share is None else capped(updates, self.max_share)
        merged = self.aggregation.merge(weighed, anchor, self.rules)
        # Which id has which row is derived here, and no client has to be believed.
        merged = {**merged, **{name: anchor[name] for name in kept_in_id_tables(anchor)}}
        if not exactly:
            shares = self.aggregation.shares(weighed)
            self.contributions.add(self.learners, updates, anchor, merged, self.rules, shares)
        return merged, sum(update.num_rows for update in updates) or int(self.aggregation.moves_alone)

    def adopt(self, weights: Weights) -> None:
        """What clients begin their next message with; cloned, as a lone update is on loan from the grid."""
        self.weights = {
            name: weights[name].clone() if name in weights else value for name, value in self.weights.items()
        }

    def consolidate(self) -> Consolidated:
        """Let the clients that have learned since they consolidated do so again."""
        learned, self.unconsolidated = self.unconsolidated, {}
        anchor = self.anchor()
        answers = self.roster.ask("train.consolidate", sorted(learned), anchor=anchor)
        rows = [learned.pop(client) for client in answers]
        self.unconsolidated = learned  # of those who were lost
        states = [tensors_of(answer, SHARED, anchor) for answer in answers.values()]
        updates = [
            Update(tensors_of(answer, "weights", anchor), count)
            for answer, count in zip(answers.values(), rows, strict=True)
            if self.remakes
        ]
        return Consolidated(rows, states, updates)

    def merge_shared(self, made: Consolidated) -> None:
        """Merge what their strategies share; they are told with their next message."""
        if not (self.terms.shares and made.states):
            return
        rules = self.terms.shared_rules
        if len(self.roster.names) == 1:  # a + (v - a) would often be the number beside v
            self.shared = {name: value.clone() for name, value in made.states[0].items()}
        else:
            rows = made.rows if self.max_share is None else capped_rows(made.rows, self.max_share)
            self.shared = self.aggregation.merge_shared(made.states, rows, rules, self.shared)

    @torch.no_grad()
    def derive(self) -> None:
        """Let the strategies derive weights from what was merged; clients are told of both with their next message."""
        weights, shared = derived(self.strategies, self.weights, self.shared)
        self.weights, self.shared = {**self.weights, **weights}, {**self.shared, **shared}


def updates_of(answers: Mapping[int, RecordDict], anchor: Mapping[str, Tensor]) -> list[Update]:
    """The updates that clients answered, which began at this anchor."""
    updates = []
    for answer in answers.values():
        document = told(answer)
        update = Update(tensors_of(answer, "weights", anchor), document["rows"], document["losses"])
        update.steps = document["steps"]
        updates.append(update)
    return updates
